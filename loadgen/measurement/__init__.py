"""The simulation's scenarios on running engines, and whether both say the same of the policies.

Read in this order: ``engines`` (started once), ``scaling`` (a scenario made small enough),
``gateway`` and ``traffic`` (one real run), ``calibration`` (the engine model beside the engines),
``campaign`` (all runs), ``order`` (do they agree?), ``report``. ``fitting`` stands alone: a timing
profile from what engines served.
"""
