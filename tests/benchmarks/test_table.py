import importlib
import json
import xml.dom.minidom

import pytest

from tests.conftest import ROOT


@pytest.fixture
def questions():
    return importlib.import_module("questions")


@pytest.fixture
def table():
    return importlib.import_module("table")


def write_result(folder, name: str, **content):
    base = {"num_cores": 2, "cpu": "some CPU", "date": "2026-01-02"}
    (folder / f"{name}.json").write_text(json.dumps(base | content))


@pytest.fixture
def answers(questions, tmp_path):
    write_result(
        tmp_path,
        "step_time",
        summary={"C1_vit_28_over_torch_eager": 0.8, "C1_vit_28_over_bare": 0.5, "torch": "left out: not there"},
        results={"C1_vit_28": {"our_rate_over": {"torch_eager": [0.6, 0.8, 0.8, 1.0]}}},
    )
    write_result(tmp_path, "startup", summary={"help_s": 0.6}, results={"help_s": [0.5, 0.6, 0.7]})
    write_result(tmp_path, "drift", summary={"M2_found_within_two_windows": {"a": 1.0, "b": 0.9}})
    return questions.read_answers(tmp_path)


def test_answers_are_those_of_the_results_that_are_there(answers):
    found = {(answer.question.file, answer.question.against): answer for answer in answers}
    assert list(found) == [
        ("step_time", "PyTorch, eager"),
        ("step_time", "bare JAX"),
        ("startup", ""),
        ("drift", ""),
    ]
    assert found["step_time", "PyTorch, eager"].spread == pytest.approx((0.75, 0.85))
    assert found["startup", ""].spread is None
    assert found["drift", ""].value == 0.9


def test_verdicts_are_goal_floor_missed_or_none(answers):
    assert [answer.verdict for answer in answers] == ["floor", "", "missed", "missed"]


def test_row_says_question_peer_number_limits_and_where_it_was_measured(table, answers):
    row = table.render_table(answers).splitlines()[3]
    assert row == (
        "| training step, ViT (28 x 28, width 128, depth 6): rate | PyTorch, eager | 0.8 (0.75 to 0.85) | ≥ 0.75 | "
        "≥ 1.1 | floor reached | 2026-01-02, 2 cores, some CPU |"
    )


def test_readme_has_the_table_of_the_results(table, questions):
    readme = (ROOT / "README.md").read_text()
    assert readme == table.replace_table(readme, table.render_table(questions.read_answers(questions.RESULTS)))


def test_table_goes_between_the_markers_and_nowhere_else(table):
    readme = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.replace_table(readme, "new") == "before\nnew\nafter\n"
    with pytest.raises(ValueError, match="expected the lines"):
        table.replace_table("no markers", "new")


def test_page_draws_each_repeat_and_limit(answers):
    plot = importlib.import_module("plot")
    strip = plot.draw_answer(answers[0])
    assert strip.count("<circle") == 4
    assert ">floor<" in strip
    assert ">goal<" in strip
    drawn = xml.dom.minidom.parseString(strip).documentElement
    places = [float(dot.getAttribute("cx")) for dot in drawn.getElementsByTagName("circle")]
    assert places == sorted(places)
    assert places[0] - 10 == pytest.approx(0.6 * (places[-1] - 10), rel=0.01)
    page = plot.render_page(answers)
    assert page.count("<svg") == len(answers)
    assert "step_time.json" in page
