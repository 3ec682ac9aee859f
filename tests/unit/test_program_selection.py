"""Choices: which runs are needed, and what the methods make of the log probabilities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_lang.tree import ChoiceScore, Select
from sgl_runtime.program.selection import best_choice, plan_scores, score_choices, softmax

CHOICES = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple), min_size=1, max_size=8, unique=True
)


@given(choices=CHOICES)
def test_runs_cover_every_place_that_is_read_and_none_is_inside_another(
    choices: list[tuple[int, ...]],
) -> None:
    plan = plan_scores(choices)
    read = {tokens[:index] for tokens in choices for index in range(len(tokens))}
    assert set(plan.targets) == read
    covered = {run[:length] for run in plan.runs for length in range(1, len(run) + 1)}
    assert covered == {path for path in read if path}
    assert not any(a != b and b[: len(a)] == a for a in plan.runs for b in plan.runs)


def test_scores_of_a_small_tree() -> None:
    logprobs = {(): {1: math.log(0.5), 2: math.log(0.3)}, (1,): {3: math.log(0.2)}}
    choices = [(1, 3), (2,)]
    exact = score_choices(choices, "probability", logprobs)
    assert [item.probability for item in exact] == pytest.approx([0.1 / 0.4, 0.3 / 0.4])
    normal = score_choices(choices, "token_length_normalized", logprobs)
    assert [item.score for item in normal] == pytest.approx([math.log(0.1) / 2, math.log(0.3)])
    greedy = score_choices(choices, "greedy", logprobs)
    assert greedy[0].score > greedy[1].score


def test_shares_sum_to_one_even_where_nothing_is_possible() -> None:
    assert softmax([-math.inf, -math.inf]) == [0.5, 0.5]
    assert softmax([0.0, -math.inf]) == [1.0, 0.0]


def test_the_first_of_equals_wins() -> None:
    node = Select(id=0, choices=("a", "b", "c"))
    scores = [ChoiceScore(logprob=0.0, probability=0.3, score=value, tokens=1) for value in (1.0, 2.0, 2.0)]
    assert best_choice(node, scores, seed=1) == 1
