"""When refusals of the provider stop a mailing: a share of its answers, once there are enough."""

from typing import Any, NamedTuple, Self


class AnswerCounts(NamedTuple):
    """Answers of the provider that are about the message: accepted, or rejected and declined."""

    accepted: int = 0
    refused: int = 0

    @property
    def answers(self) -> int:
        """The number of all answers."""
        return self.accepted + self.refused

    def plus(self, other: "AnswerCounts") -> "AnswerCounts":
        """Return the sum of both."""
        return AnswerCounts(self.accepted + other.accepted, self.refused + other.refused)


class StopRule(NamedTuple):
    """The field `stop_when` of a mailing or of the policy."""

    refused_share: float
    min_answers: int

    @classmethod
    def from_json(cls, value: dict[str, Any] | None) -> Self | None:
        """Return the rule that a JSONB column stores; None if there is none."""
        return None if value is None else cls(float(value["refused_share"]), value["min_answers"])

    def is_broken_by(self, counts: AnswerCounts) -> bool:
        """Return whether the mailing must stop. Without a refusal no rule is broken."""
        return (
            counts.refused > 0
            and counts.answers >= self.min_answers
            and counts.refused / counts.answers >= self.refused_share
        )

    def is_close_to(self, counts: AnswerCounts) -> bool:
        """Return whether there are half the refusals that would break the rule."""
        needed = self.refused_share * max(counts.answers, self.min_answers)
        return counts.refused > 0 and 2 * counts.refused >= needed
