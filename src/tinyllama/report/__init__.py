"""The HTML page about a run. Python collects what it shows; page.html.j2 and chart.html.j2 have the markup.

plots: line charts with axes, legend, event markers and hover values: coordinates and words for chart.html.j2
run_facts: reads a run's folder into one record
run_report: writes report.html, a self-contained page about a run
run_sections: what each section of the report shows, one function each
score_curves: charts of task scores against training tokens, next to those of TinyLlama and Pythia
templates: the Jinja environment, which escapes untrusted text
ticks: axis ticks and number formatting
timeline: table and chart markers of the events in events.jsonl
"""
