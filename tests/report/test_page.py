import json
import re
from html import escape

import numpy as np
import pytest

from mlvlab_jax import report_run
from mlvlab_jax.errors import ConfigError, DataError
from mlvlab_jax.report.confusion import draw_confusion
from mlvlab_jax.report.page import render_report, write_report
from mlvlab_jax.report.run import read_run
from tests.browsing import section, sections_of, text_of
from tests.report.runs import ATTEMPT, MANIFEST, SECTIONS, make_evaluation, make_records, write_run


def test_a_finished_run_has_every_section_in_order_and_is_small(tmp_path):
    path = write_report(write_run(tmp_path / "run-7"))
    page = path.read_text()
    assert path == tmp_path / "run-7" / "report.html"
    assert sections_of(page) == SECTIONS
    assert [each[1:] for each in re.findall(r"<nav>.*</nav>", page)[0].split('"')[1::2]] == SECTIONS
    assert "<h1>run-7</h1>" in page
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "://" not in page
    assert len(page) < 300_000


def test_the_verdict_says_how_good_how_sure_and_how_long(tmp_path):
    page = render_report(read_run(write_run(tmp_path)))
    content = make_evaluation("0123456789")
    accuracy = f"{100 * content['metrics']['accuracy']['value']:.2f} %"
    verdict = text_of(re.search(r'<p class="verdict">(.*?)</p>', page)[1])
    assert verdict.startswith(f"Test accuracy {accuracy} (95 % interval 83.0 % to 93.0 %, 300 images) ,")
    assert verdict.endswith("calibrated ECE 1.23 % , trained in 10.0 s")


def test_key_facts_and_the_share_of_phases(tmp_path):
    facts = text_of(section(render_report(read_run(write_run(tmp_path))), "facts"))
    assert "cnn, 260,682 parameters" in facts
    assert "120 steps, finished; best at step 119" in facts
    assert "2 x H100, x86_64" in facts
    assert "with uncommitted changes" in facts
    assert "training 6.0 s (60 %)" in facts
    assert "goodput 60 %" in facts


def test_attempts_add_up_and_what_was_made_again_is_lost(tmp_path):
    killed = {**ATTEMPT, "step": 90, "ended": None}
    again = {**ATTEMPT, "started": "2026-11-23T04:26:20+00:00", "first_step": 60}
    page = render_report(read_run(write_run(tmp_path, attempts=[killed, again])))
    facts = text_of(section(page, "facts"))
    # A third of the first attempt's 6.0 s of training and 0.5 s of waiting was for steps 61 to 90.
    assert "20.0 s in all, goodput 50 %; 2 attempts, 60.0 s between them; 30 steps made again" in facts
    assert "training 10.0 s (50 %)" in facts
    assert "lost work 2.2 s (11 %)" in facts
    bar = re.search(r'<svg role="img" aria-label="Where the time went">.*?</svg>', page)[0]
    widths = [float(width) for width in re.findall(r'width="([\d.]+)%"', bar)]
    assert sum(widths) == pytest.approx(100, abs=0.05)
    assert len(widths) == 6


def test_the_verdict_on_the_time_is_below_the_bar(tmp_path):
    figure = section(render_report(read_run(write_run(tmp_path))), "facts").split('<figure class="time">')[1]
    assert "<p>Compiling took 20 % of a short run (10 s).</p></figure>" in figure


def test_a_run_without_a_ledger_has_no_bar(tmp_path):
    write_run(tmp_path)
    (tmp_path / "goodput.jsonl").unlink()
    page = render_report(read_run(tmp_path))
    assert "Where the time went" not in page
    assert "trained in" not in page


def test_the_page_is_of_the_result_and_not_of_another_checkpoint(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "evaluation" / "test" / "evaluation.json"
    other = tmp_path / "evaluation" / "test-60" / "evaluation.json"
    other.parent.mkdir()
    content = json.loads(path.read_text())
    other.write_text(json.dumps({**content, "step": 60, "num_examples": 7}))
    assert "300 images, state of step 119" in render_report(read_run(tmp_path))
    path.write_text(json.dumps({**content, "split": "validation"}))
    assert "Validation accuracy" in render_report(read_run(tmp_path))


def test_versions_of_tracked_data_are_named_and_fetched(tmp_path):
    version = {"path": "data/raw set", "md5": "ab" * 16 + ".dir", "revision": "cd" * 20, "dirty": True}
    page = render_report(read_run(write_run(tmp_path, manifest={**MANIFEST, "data_version": [version]})))
    assert "data/raw set abababababab at cdcdcdcdcdcd changed since" in text_of(section(page, "facts"))
    assert "dvc pull &#x27;data/raw set&#x27;" in section(page, "reproduce")


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (MANIFEST["sessions"][0]["command"], "python -m mlvlab_jax.train --config 'my configs/a.yaml' seed=0"),
        (["mlvlab", "train", "--workdir=x", "--config", "a.yaml"], "mlvlab train --config a.yaml"),
        (["my_program.py"], "mlvlab train --config config.yaml"),
    ],
)
def test_the_commands_start_the_same_run_in_another_folder(tmp_path, recorded, expected):
    manifest = {**MANIFEST, "sessions": [{**MANIFEST["sessions"][0], "command": recorded}]}
    commands = section(render_report(read_run(write_run(tmp_path, manifest=manifest))), "reproduce")
    lines = re.search(r"<code>(.*?)</code>", commands, re.DOTALL)[1].splitlines()
    assert lines[0] == "git checkout 1ab6e4620d024d1c1ee252b57376c832c8a10920"
    assert lines[1].startswith("python -m pip install --editable . jax==0.12.0  #")
    assert lines[2].split("  #")[0] == escape(expected)
    assert "uncommitted changes" in commands


def test_a_run_that_has_not_ended_has_a_page(tmp_path):
    write_run(tmp_path)
    (tmp_path / "summary.json").unlink()
    for path in sorted((tmp_path / "evaluation").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    page = render_report(read_run(tmp_path))
    assert sections_of(page) == ["facts", "curves", "configuration", "versions", "reproduce"]
    assert "Not ended yet" in page
    (tmp_path / "metrics.jsonl").unlink()
    assert "No curves were recorded" in render_report(read_run(tmp_path))
    interrupted = {
        "ended": "interrupted",
        "steps": 60,
        "num_params": 5,
        "num_bad_examples": 2,
        "best": None,
    }
    (tmp_path / "summary.json").write_text(json.dumps(interrupted))
    page = render_report(read_run(tmp_path))
    assert "Interrupted; it can go on" in page
    assert "2 unreadable examples" in page


def test_a_run_without_evaluation_says_what_training_measured(tmp_path):
    write_run(tmp_path)
    (tmp_path / "evaluation" / "test" / "evaluation.json").unlink()
    assert "Test accuracy <b>91.00\u00a0%</b>, trained in 10.0 s" in render_report(read_run(tmp_path))


def test_classes_come_hardest_first_and_those_without_images_last(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "evaluation" / "test" / "evaluation.json"
    content = json.loads(path.read_text())
    content["per_class"][7] |= {"support": 0, "predicted": 0, "recall": 0.0, "precision": 0.0, "f1": 0.0}
    path.write_text(json.dumps(content))
    table = section(render_report(read_run(tmp_path)), "classes")
    names = re.findall(r'<th scope="row">(\d)', table)
    recalls = {each["name"]: each["recall"] for each in content["per_class"]}
    assert names[-1] == "7"
    assert names[0] == "0"
    assert [recalls[name] for name in names[:-1]] == sorted(recalls[name] for name in names[:-1])


def test_mistakes_show_their_images_or_say_there_is_none(tmp_path):
    page = section(render_report(read_run(write_run(tmp_path / "a"))), "mistakes")
    mistakes = make_evaluation("0123456789")["mistakes"]
    assert page.count("data:image/png;base64,") == len(mistakes) > 5
    first = mistakes[0]
    assert f"{first['label']} taken for {first['prediction']} {100 * first['confidence']:.1f}" in text_of(page)
    page = section(render_report(read_run(write_run(tmp_path / "b", thumbnails=False))), "mistakes")
    assert page.count("no image kept") == len(mistakes)


HOSTILE = '<img src=x onerror="alert(1)">&"\'\ud800</title>'


def test_hostile_names_stay_text(tmp_path):
    names = [HOSTILE + str(k) for k in range(12)]
    session = {**MANIFEST["sessions"][0], "command": ["mlvlab", "train", HOSTILE], "devices": [f"gpu:0 {HOSTILE}"]}
    session |= dict.fromkeys(("started", "python", "machine"), HOSTILE)
    attempt = {**ATTEMPT, "seconds": {**ATTEMPT["seconds"], HOSTILE: 1.0}, "ended": HOSTILE}
    session |= {"versions": {"mlvlab_jax": HOSTILE, "jax": HOSTILE}, "git": {"commit": HOSTILE, "dirty": True}}
    manifest = {**MANIFEST, "sessions": [session], "data": {"origin": HOSTILE, HOSTILE: HOSTILE}}
    manifest["data_version"] = [{"path": HOSTILE, "md5": HOSTILE, "revision": HOSTILE, "dirty": True}]
    manifest["weights"] = {"path": HOSTILE, "sha256": HOSTILE, "changed": [HOSTILE]}
    manifest["config_hash"] = manifest["seed"] = HOSTILE
    folder = write_run(tmp_path / "<b>run", class_names=names, manifest=manifest, attempts=[attempt], thumbnails=False)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "verdict": HOSTILE}))
    path = folder / "evaluation" / "test" / "evaluation.json"
    content = json.loads(path.read_text())
    content["slices"] = {HOSTILE: [{**content["slices"]["brightness"][0], "value": HOSTILE}]}
    content["metrics"] = {HOSTILE: {**content["metrics"]["accuracy"], "method": HOSTILE}, **content["metrics"]}
    content["mistakes"] = [{**each, "id": HOSTILE} for each in content["mistakes"]]
    content |= {"split": HOSTILE}
    content["calibration"]["fitted_on"] = HOSTILE
    path.write_text(json.dumps(content))
    (folder / "config.yaml").write_text(f"model: {{name: {json.dumps(HOSTILE)}}}\n")
    page = write_report(folder).read_text()
    assert "<img" not in page
    assert "<b>run" not in page
    assert page.count("</title>") == page.count("<title>")
    assert page.count(escape("<img src=x onerror=")) > 50
    assert f"began with {escape(HOSTILE[:10])}" in page


@pytest.mark.parametrize("number", [2, 12, 30])
def test_the_heat_map_holds_every_count(number):
    counts = np.random.default_rng(0).integers(0, 4, (number, number))
    figure = draw_confusion(counts, class_names=[f"class {k}" for k in range(number)])
    assert len(re.findall(r'class="number"', figure)) == (counts > 0).sum()
    assert len(re.findall(r'<rect class="blue"', figure)) == (np.diag(counts) > 0).sum()


def test_many_classes_become_the_largest_mix_ups():
    counts = np.eye(40, dtype=int) * 10
    counts[3, 5], counts[7, 1] = 5, 30
    table = draw_confusion(counts, class_names=[f"c{k}" for k in range(40)])
    assert "<svg" not in table
    rows = [text_of(row) for row in table.split("<tr>")[2:]]
    assert rows == ["c7 c1 30 75.0 %", "c3 c5 5 33.3 %"]


def test_a_perfect_model_has_a_page(tmp_path):
    write_run(tmp_path)
    path = tmp_path / "evaluation" / "test" / "evaluation.json"
    content = json.loads(path.read_text())
    content |= {"confusion": (np.eye(10, dtype=int) * 30).tolist(), "mistakes": [], "slices": {}}
    content["calibration"] |= {"after": None, "temperature": None, "fitted_on": None}
    path.write_text(json.dumps(content))
    page = render_report(read_run(tmp_path))
    assert "Nothing was taken for another class" in page
    assert sections_of(page) == [name for name in SECTIONS if name not in ("slices", "mistakes")]
    assert "uncalibrated ECE" in page


def test_a_thousand_classes_and_a_long_run_stay_below_a_megabyte(tmp_path):
    records = [{**record, "step": record["step"] + 120 * k} for k in range(1000) for record in make_records()]
    write_run(tmp_path, class_names=[f"n{k:08d} a class of ImageNet" for k in range(1000)], records=records)
    assert len(render_report(read_run(tmp_path))) < 1_000_000


def test_what_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(ConfigError, match="no config.yaml, so no run"):
        read_run(tmp_path)
    assert report_run.main(["--workdir", str(tmp_path)]) == 64
    write_run(tmp_path)
    (tmp_path / "manifest.json").write_text('{"seed": ')
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read"):
        read_run(tmp_path)
    write_run(tmp_path / "b")
    (tmp_path / "b" / "evaluation" / "test" / "evaluation.json").write_text('{"schema": 2}')
    with pytest.raises(DataError, match="schema 2; expected 1"):
        read_run(tmp_path / "b")


def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    assert report_run.main(["--workdir", str(folder), "--out", str(tmp_path / "pages" / "a.html")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'pages' / 'a.html'}\n"
    assert "<h1>run</h1>" in (tmp_path / "pages" / "a.html").read_text()
    assert not (folder / "report.html").exists()
