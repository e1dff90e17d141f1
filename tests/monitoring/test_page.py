import json
import re
from html import escape

import pytest

from mlvlab_jax import monitor
from mlvlab_jax.errors import ConfigError
from mlvlab_jax.monitoring.findings import compare_counts, compute_median, find_changes
from mlvlab_jax.monitoring.history import Histogram, read_history
from mlvlab_jax.monitoring.page import render_drift, write_drift_page
from tests.browsing import section, sections_of, text_of
from tests.monitoring.folders import (
    CLASS_NAMES,
    SECTIONS,
    make_labels,
    make_reference,
    make_window,
    make_windows,
    write_folder,
)


def render(folder, *, number=None):
    history = read_history(folder)
    return render_drift(history, find_changes(history, number=number))


def verdict_of(page):
    return text_of(re.search(r'<p class="verdict">(.*?)</p>', page)[1])


def test_a_page_in_alarm_has_every_section_in_order_and_asks_nobody(tmp_path):
    path = write_drift_page(write_folder(tmp_path))
    page = path.read_text()
    assert path == tmp_path / "drift.html"
    assert sections_of(page) == SECTIONS
    assert re.findall(r'href="#(\w+)"', re.search("<nav>.*</nav>", page)[0]) == SECTIONS
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "://" not in page
    assert len(page) < 200_000


def test_the_verdict_comes_first_and_in_words(tmp_path):
    verdict = verdict_of(render(write_folder(tmp_path)))
    assert verdict.startswith("Alarm since window 13 (2026-11-20 18:57 UTC) Window 15: brightness is lower than at")
    assert re.search(
        r"brightness is lower than at training \(median 7\d\.?\d?, at training 11[789]\), contrast", verdict
    )
    assert verdict.endswith("6 more.")


def test_the_advice_names_the_time_of_the_first_window_that_differed(tmp_path):
    advice = section(render(write_folder(tmp_path)), "next")
    assert "Find what changed after 2026-11-20 17:24 UTC" in advice  # of window 12, where the alarm is since window 13


def test_the_first_window_that_differs_is_no_alarm_yet(tmp_path):
    page = render(write_folder(tmp_path, windows=make_windows(3, 1)))
    assert verdict_of(page).startswith("Different from training in window 4 (2026-11-20 11:54 UTC), no alarm yet")
    assert "Wait for the next windows" in section(page, "next")


def test_windows_like_training_need_nothing_done(tmp_path):
    page = render(write_folder(tmp_path, windows=make_windows(5, 0)))
    assert verdict_of(page) == (
        "Like training up to window 5 (2026-11-20 12:41 UTC): no test finds a difference that matters"
    )
    assert text_of(section(page, "next")) == "What to do next Nothing."
    assert "None were kept" in section(page, "images")
    assert text_of(section(page, "tests")).count("like training") == len(make_window(1)["tests"])


def test_an_alarm_outlives_the_last_window_that_differed_and_shows_that_one(tmp_path):
    windows = [*make_windows(2, 3), make_window(6, alarm=True)]
    page = render(write_folder(tmp_path, windows=windows))
    assert "window 6 (2026-11-20 13:28 UTC) agrees with training again" in verdict_of(page)
    assert "Window 5: brightness is lower" in verdict_of(page)
    assert "Window 5 against training" in page
    assert section(page, "images").count("data:image/png;base64,") == 12


def test_a_new_version_starts_with_no_windows(tmp_path):
    old = [make_window(n, dark=0.6, alarm=True, version="an older one") for n in range(1, 4)]
    page = render(write_folder(tmp_path, windows=old, labels=[]))
    assert verdict_of(page) == "No window of version 8f3a11c09b2e is complete yet: nothing can be said."
    assert sections_of(page) == ["windows", "next", "accuracy", "facts"]
    page = render(write_folder(tmp_path, windows=[*old, make_window(4)]))
    assert verdict_of(page).startswith("Like training up to window 4")
    assert section(page, "windows").count('class="mark"') == 1


def test_no_windows_yet_is_a_page(tmp_path):
    page = render(write_folder(tmp_path, windows=[], labels=[]))
    assert sections_of(page) == ["next", "accuracy", "facts"]
    assert "Wait: the first window is written when it is full" in page
    assert "No labels were posted yet" in page


def test_another_window_can_be_looked_at(tmp_path):
    folder = write_folder(tmp_path)
    page = render(folder, number=3)
    assert "Window 3 against training" in page
    assert verdict_of(page) == "Alarm since window 13 (2026-11-20 18:57 UTC)"
    with pytest.raises(ConfigError, match="no window 99 of version 8f3a11c09b2e; there are 1 to 15; choose another"):
        render(folder, number=99)


def test_the_timeline_tells_states_by_more_than_colour(tmp_path):
    timeline = section(render(write_folder(tmp_path)), "windows")
    bars = re.findall(r'<rect class="(blue|orange|alarm)" x="\d+" y="[\d.]+" width="22" height="([\d.]+)"/>', timeline)
    assert bars == [("blue", "10.2")] * 11 + [("orange", "22.1")] + [("alarm", "34.0")] * 3
    assert "window 12: different\nuntil 2026-11-20 18:10 UTC, 500 requests\n" in timeline
    assert "of these 3 in alarm" in timeline


def test_a_thousand_windows_are_drawn_as_the_last_hundred(tmp_path):
    first = make_window(1)
    windows = [first | {"window": n} for n in range(1, 1001)]
    page = render(write_folder(tmp_path, windows=windows))
    numbers = re.findall(r"<title>window (\d+):", section(page, "windows"))
    assert list(map(int, numbers)) == list(range(901, 1001))
    assert "1,000, the last 100 drawn" in page
    assert len(page) < 500_000


def test_a_histogram_holds_the_shares_of_both(tmp_path):
    reference = make_reference()
    reference["features"] = {"brightness": {"edges": [0, 85, 170, 255], "counts": [10, 30, 60]}}
    window = make_window(1) | {"features": {"brightness": [25, 75, 0]}}
    features = section(render(write_folder(tmp_path, reference=reference, windows=[window])), "features")
    assert "0 to 85\nat training 10.0\u00a0%\nthis window 25.0\u00a0%" in features
    assert "170 to 255\nat training 60.0\u00a0%\nthis window 0.0\u00a0%" in features
    heights = [float(height) for height in re.findall(r'<rect class="count"[^>]* height="([\d.]+)"', features)]
    assert heights == pytest.approx([100 * 10 / 75, 100 * 30 / 75, 100 * 60 / 75], abs=0.06)
    assert "M6 108V74.7H91.3V8.0H176.7V108.0H262.0V108" in features


def test_every_test_has_its_row(tmp_path):
    tests = section(render(write_folder(tmp_path)), "tests")
    rows = [text_of(row) for row in tests.split("<tr>")[2:]]
    assert len(rows) == len(make_window(15)["tests"])
    assert [" differs " in row for row in rows] == sorted((" differs " in row for row in rows), reverse=True)
    assert "embedding mmd differs (4 x floor) 0.001 0.4 0.1" in rows
    window = make_window(1)
    window["tests"][0] |= {"rejected": True, "p_value": 0.0, "effect": 1.0, "floor": 0.0}
    tests = section(render(write_folder(tmp_path, windows=[window])), "tests")
    assert "brightness kolmogorov smirnov differs &lt; 1e-99 1 0" in text_of(tests)


def test_classes_that_moved_most_come_first_and_many_are_cut(tmp_path):
    page = render(write_folder(tmp_path / "a"))
    names = re.findall(r"<g><title>(.*?): at training", section(page, "classes"))
    assert names[0] == "Ankle boot"
    assert sorted(names) == sorted(CLASS_NAMES)
    many = tuple(f"class {k}" for k in range(300))
    window, reference = make_window(1, class_names=many), make_reference(class_names=many)
    page = render(write_folder(tmp_path / "b", windows=[window], reference=reference, labels=[]))
    assert section(page, "classes").count("<g>") == 20
    assert "The other 280 classes moved less." in page


def test_live_accuracy_is_told_with_its_interval_over_time_and_with_mistakes(tmp_path):
    labels = make_labels(100)
    accuracy = text_of(section(render(write_folder(tmp_path, labels=labels)), "accuracy"))
    right = sum(each["label"] == each["prediction"] for each in labels)
    assert f"{right}.0 % of 100 labelled answers are right (95 % interval 82.0 % to 94.0 %)." in accuracy
    first = sum(each["label"] == each["prediction"] for each in labels[:20])
    assert f"2026-11-20 08:00 UTC {5 * first}.0 %" in accuracy
    true, taken = next(
        (CLASS_NAMES[e["label"]], CLASS_NAMES[e["prediction"]]) for e in labels if e["label"] != e["prediction"]
    )
    assert f"{true} {taken} " in accuracy


def test_images_that_are_gone_or_damaged_are_said(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "images" / "window-000015" / "00.png").unlink()
    (folder / "images" / "window-000015" / "01.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    whole = folder / "images" / "window-000015" / "02.png"
    whole.write_bytes(whole.read_bytes()[:60])
    images = section(render(folder), "images")
    assert images.count("no image kept") == 1
    assert images.count("unreadable") == 2
    assert images.count("data:image/png;base64,") == 9
    assert "T-shirt/top 95.0 % sure distance 9.5 000f0000c0ffee / 0" in text_of(images)


HOSTILE = '<img src=x onerror="alert(1)">&"\'\u202e</title>'


def test_hostile_names_stay_text(tmp_path):
    names = tuple(f"{HOSTILE}{k}" for k in range(10))
    reference = make_reference(version=HOSTILE, class_names=names) | {"model": HOSTILE, "package_sha256": HOSTILE}
    reference["features"][HOSTILE] = reference["features"]["brightness"]
    windows = make_windows(2, 2)
    for window in windows:
        window |= {"model": HOSTILE, "version": HOSTILE}
        window["features"][HOSTILE] = window["features"]["brightness"]
        window["tests"] += [window["tests"][0] | {"test": HOSTILE, "feature": HOSTILE}]
        window["images"] = [image | {"request_id": HOSTILE} for image in window["images"]]
    windows[0]["version"] = "before"
    windows[-1]["tests"][-1]["rejected"] = False
    labels = [label | {"version": HOSTILE} for label in make_labels()]
    folder = write_folder(tmp_path, reference=reference, windows=windows, labels=labels, pictures=False)
    waiting = write_folder(tmp_path / "waiting", reference=reference, windows=windows[:1], labels=labels)
    pages = {number: render(folder, number=number) for number in (2, 3, 4)} | {"waiting": render(waiting)}
    for name, page in pages.items():
        assert "<img" not in page, name
        assert page.count("</title>") == page.count("<title>")
        assert page.count(escape("<img src=x onerror=")) > 10
    assert all(f">{escape(HOSTILE)}3<" in section(pages[4], name) for name in ("accuracy", "images"))


def test_directions_are_by_rank_and_medians_by_bin():
    assert compare_counts([0, 0, 4], [2, 0, 0]) == 1
    assert compare_counts([3, 0], [0, 9]) == 0
    assert compare_counts([1, 1], [1, 1]) == 0.5
    assert compare_counts([1, 3], [1, 1]) == pytest.approx(0.75 * 0.5 + 0.5 * 0.5)  # wins and half of the ties
    assert compute_median(Histogram(edges=(0.0, 10.0, 20.0), counts=(1, 3))) == pytest.approx(10 + 10 / 3)
    assert compute_median(Histogram(edges=(0.0, 1.0), counts=(4,))) == 0.5


def test_a_median_beyond_the_bins_is_not_made_up(tmp_path):
    reference = make_reference()
    reference["features"] = {"brightness": {"edges": [0, 10, 20, 30], "counts": [10, 80, 10]}}
    reference["features"]["contrast"] = reference["features"]["brightness"]
    window = make_window(1, dark=0.5) | {"features": {"brightness": [500, 0, 0], "contrast": [0, 0, 500]}}
    verdict = verdict_of(render(write_folder(tmp_path, reference=reference, windows=[window])))
    assert "brightness is lower than at training (median below 10, at training 15)" in verdict
    assert "contrast is higher than at training (median above 20, at training 15)" in verdict


def test_the_command_writes_where_it_is_told_and_says_the_state(tmp_path, capsys):
    folder = write_folder(tmp_path / "watched")
    out = tmp_path / "pages" / "a.html"
    assert monitor.main(["report", "--folder", str(folder), "--out", str(out), "--window", "14"]) == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    assert "Window 14 against training" in out.read_text()
    assert not (folder / "drift.html").exists()
    assert monitor.main(["status", "--folder", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["window"], told["since"], told["model"]) == ("alarm", 15, 13, "fashion")
    assert len(told["changes"]) == 9
    assert (told["live"]["num"], told["live"]["low"]) == (120, 0.82)
    assert monitor.main(["status", "--folder", str(folder)]) == 0
    told = capsys.readouterr().out
    assert told.startswith("Alarm since window 13 (2026-11-20 18:57 UTC)\n  brightness is lower")
    assert "of 120 labelled answers are right" in told.splitlines()[-1]


def test_the_command_refuses_what_is_no_such_folder(tmp_path, capsys):
    assert monitor.main(["report", "--folder", str(tmp_path)]) == 64
    folder = write_folder(tmp_path / "watched")
    (folder / "windows.jsonl").write_text("{}\n")
    assert monitor.main(["status", "--folder", str(folder)]) == 65
    assert "windows.jsonl:1: window: " in capsys.readouterr().err
