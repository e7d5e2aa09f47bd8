"""The HTML page about a run.

document_groups: tables of kept documents by domain, language and licence
plots: line charts as inline SVG, with axes, legend, event markers and hover values
run_facts: reads a run's folder into one record
run_report: writes report.html, a self-contained page about a run
run_sections: HTML sections of the report, one function each
run_story: table and chart markers of the events in events.jsonl
safe_text: escapes untrusted text for HTML
score_curves: charts of task scores against training tokens, next to those of TinyLlama and Pythia
ticks: axis ticks and number formatting
"""
