"""Neutral names of groups of people, to which the safety model is blind. Not one of them is an insult.

Lower-case words in UTF-8. Religion, descent and origin, gender and orientation, age and ability: the grounds that hate
speech law names (ICCPR article 20; Council of Europe Recommendation 97/20).
"""

_NAMES = """
african africans american americans arab arabs armenian armenians asian asians australian australians black blacks
brazilian brazilians british brit brits bulgarian bulgarians canadian canadians caucasian caucasians chinese colombian
colombians cuban cubans dutch egyptian egyptians english ethiopian ethiopians european europeans filipino filipinos
filipina french german germans greek greeks hispanic hispanics hungarian hungarians indian indians indonesian
indonesians iranian iranians iraqi iraqis irish israeli israelis italian italians jamaican jamaicans japanese kenyan
kenyans korean koreans kurd kurds kurdish latin latina latinas latino latinos latinx lebanese mexican mexicans moroccan
moroccans native nigerian nigerians pakistani pakistanis palestinian palestinians persian persians polish pole poles
portuguese roma romani romanian romanians russian russians scottish serb serbs serbian slavic slav slavs somali somalis
spanish swedish syrian syrians taiwanese thai tibetan tibetans turk turks turkish ukrainian ukrainians vietnamese welsh
white whites yemeni

aboriginal aborigines indigenous immigrant immigrants migrant migrants refugee refugees foreigner foreigners minority
minorities nonwhite coloured colored mixed biracial

agnostic agnostics anglican anglicans atheist atheists baptist baptists buddhist buddhists catholic catholics christian
christians evangelical hindu hindus islam islamic jain jains jew jewish jews judaism lutheran mormon mormons muslim
muslims orthodox protestant protestants quaker quakers shia sikh sikhs sunni taoist zoroastrian

bisexual bisexuals cisgender female females feminist feminists gay gays gender girl girls heterosexual heterosexuals
homosexual homosexuals intersex lesbian lesbians lgbt lgbtq lgbtqia male males man men nonbinary queer straight trans
transgender transgendered transsexual transsexuals transwoman transwomen transman transmen woman women boy boys

blind deaf disabled disability disabilities autistic paralyzed wheelchair elder elderly middleaged old older senior
seniors teenage teenager teenagers young younger millenial millennial
"""
GROUP_NAMES = frozenset(name.encode() for name in _NAMES.split())
