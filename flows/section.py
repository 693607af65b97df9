"""What every section of a campaign or cluster file shares."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Unknown keys are errors, and values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
