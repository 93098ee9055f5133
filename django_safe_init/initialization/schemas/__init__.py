"""Migrate the schemas of all tenants in one run.

The leader finds the schemas that are not up to date, and workers migrate one after another: in
this process, or in forked ones. Schemas with the same recorded migrations have the same plan. Its
SQL is computed once and replayed, one migration and its record in one transaction. A migration
that reads the database, or that runs Python, runs for real in each schema.

`run` is the leader's side, `worker` migrates one schema, `pool` forks, `plans` computes, and
`provisioning` migrates the schema of a new tenant without a run.
"""
