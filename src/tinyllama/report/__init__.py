"""The HTML page about a run.

document_groups: what cleaning kept of each domain, language and licence, as tables of a run's page
plots: line charts as inline SVG: axes with round ticks, a legend, marks for events, values under the pointer
run_facts: what a run's folder says about the run, read into one record
run_report: one page about a run: report.html, a single file that needs nothing else and may be sent to anyone
run_sections: the parts of a run's page, each a function from the run's facts to HTML; empty when the run has nothing
run_story: what happened to a run on its way, from events.jsonl: marks on the loss curve, what was gone back from
safe_text: texts of a run as parts of a page: they come from the web, from a network or from a file, and may say
score_curves: scores of standard tasks against training tokens, beside those that TinyLlama and Pythia published of
ticks: where an axis has its marks, and how numbers are written
"""
