"""The batch job as a Prefect flow: a task for each month that the plan calls missing or stale."""

from prefect import flow, task

from batch.months import Month, months_between
from batch.plan import make_plan
from batch_job import Job, ScoredMonth, identify_model, score_month
from settings import ModelSettings


@task(name="score-month")
def score_one(job: Job, settings: ModelSettings) -> ScoredMonth:
    """Score a month."""
    return score_month(job, settings)


@flow(name="score-months")
def score_months(
    first: Month, last: Month, source: str | None, output: str, settings: ModelSettings
) -> list[ScoredMonth]:
    """Score the months that are missing or stale."""
    plan = make_plan(months_between(first, last), source, output, identify_model(settings))
    jobs = [Job(due.month, source, output, force=True) for due in plan if due.is_due]
    return [score_one(job, settings) for job in jobs]
