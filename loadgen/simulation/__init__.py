"""Every policy on the shipped scripts, in virtual time: what fairness would buy, before it is on.

Read in this order: clock, link, engine, workload, work, gate, driver; then sources, scenarios,
policies, own_site; then bound, endings, figures, campaign; last charts, page.
"""
