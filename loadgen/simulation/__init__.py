"""Every policy on the shipped scripts, in virtual time: what fairness would buy, before it is on.

Read in this order: clock, link, engine, workload, gate, driver; then sources, scenarios, policies;
then bound, figures, campaign; last charts, page.
"""
