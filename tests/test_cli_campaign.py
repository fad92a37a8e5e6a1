"""The commands on a campaign: through the real entry point, through `main`, and beside a real server."""

import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from filelock import FileLock
from PIL import Image as Picture
from sqlalchemy import select

from coldstart import cli
from coldstart.adapters.offline import open_campaign
from coldstart.adapters.server import Server
from coldstart.campaign import Campaign
from coldstart.campaign.configured import ServerMark
from coldstart.exceptions import SettingsError
from coldstart.selection import METHODS
from coldstart.store import Label, Serving

COMMAND = str(Path(sys.executable).with_name("coldstart"))
CONF = ("--preset", "sample", "--conf", "encoder", "descriptor", "--conf", "device", "cpu")
N_IMAGES, N_HELD_OUT = 24, 4
COMMANDS = ("embed", "plan", "next", "status", "map", "replay")


class Ended(NamedTuple):
    code: int
    out: str
    error: str

    @property
    def document(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def sentence(self) -> str:
        return " ".join(self.error.split())


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command as the entry point does, in this process, which has its libraries loaded."""

    def command(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["coldstart", *map(str, arguments)])
        capsys.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, error = capsys.readouterr()
        assert isinstance(code, int)
        return Ended(code, out, error)

    return command


def copy_images(studies: Path, repository: Path, n: int = N_IMAGES) -> Path:
    studies.mkdir()
    for file in sorted((repository / "sample-data" / "chest").glob("*.nrrd"))[:n]:
        shutil.copy2(file, studies)  # with their times: they arrived long ago
    return studies


def label(studies: Path, repository: Path, *image_ids: str) -> None:
    final = studies / "labels" / "final"
    final.mkdir(parents=True, exist_ok=True)
    for image_id in image_ids:
        shutil.copy2(repository / "sample-data" / "chest" / "groundtruth" / f"{image_id}.nrrd", final)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Images with a plan, made through the real entry point; its output lies beside them."""
    folder = tmp_path_factory.mktemp("planned")
    studies = copy_images(folder / "studies", repository)
    names = sorted(path.stem for path in studies.iterdir())
    (folder / "heldout.txt").write_text("\n".join(names[-N_HELD_OUT:]))
    (studies / "notes.nrrd").write_text("this is no image")
    command = [COMMAND, "plan", "studies", "--budget", "7", *CONF, "--conf", "heldout", "heldout.txt", "--json"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=True)
    (folder / "plan.json").write_text(made.stdout)
    return folder


@pytest.fixture
def studies(planned: Path, tmp_path: Path) -> Path:
    """A copy of the planned images for one test alone."""
    return shutil.copytree(planned / "studies", tmp_path / "studies")


def test_plan_prints_one_document_and_writes_table_and_map(planned: Path) -> None:
    document = json.loads((planned / "plan.json").read_text())
    picks = document["picks"]
    assert (document["method"], document["kept"], document["budget"], document["images"]) == ("cold_start", True, 7, 20)
    assert [pick["rank"] for pick in picks] == list(range(1, 8))
    assert len({pick["image_id"] for pick in picks}) == 7
    assert "medoid of cluster" in picks[0]["reason"]
    with (planned / "plan-output" / "plan.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [pick["image_id"] for pick in picks]
    with Picture.open(planned / document["map"]) as picture:
        assert picture.format == "PNG" and min(picture.size) > 500


def test_settings_are_known_to_the_next_command_wherever_it_is_started(run: Run, planned: Path) -> None:
    found = run("status", planned / "studies", "--json").document
    assert (found["preset"], found["encoder"], found["budget"], found["held_out"]) == ("sample", "descriptor 1", 7, 4)


def test_status_says_what_a_lab_asks_first(run: Run, studies: Path, repository: Path) -> None:
    served = run("next", studies, "--annotator", "lee", "--json").document["id"]
    label(studies, repository, served)
    shown = run("status", studies)
    assert shown.code == 0
    assert "6 of the 7 planned images are still to be labelled" in shown.out
    assert "1 of 20 images; budget 7, 4 held out" in shown.out
    assert "notes.nrrd" in shown.out and "1 set aside" in shown.out
    assert "none is running" in shown.out and str(studies) in "".join(shown.out.split("│"))


def test_next_follows_the_plan_and_reserves(run: Run, studies: Path) -> None:
    order = [pick["image_id"] for pick in run("plan", studies, "--output", studies.parent, "--json").document["picks"]]
    assert [run("next", studies, "--json").document["id"] for _ in range(2)] == order[:2]
    third = run("next", studies, "--annotator", "lee").out
    assert order[2] in third and "pick 3 of 7" in third and "Reserved for lee, for 60 minutes" in third
    skipping = run("next", studies, "--annotator", "lee", "--json").document
    assert skipping["id"] == order[3] and Path(skipping["path"]).is_file()
    with open_campaign(str(studies), {}, begin=False).campaign.store.reading() as session:
        servings = session.execute(select(Serving.annotator, Serving.outcome).order_by(Serving.id)).tuples().all()
    assert servings == [(None, None), (None, None), ("lee", "skipped"), ("lee", None)]


def test_peek_shows_what_comes_and_reserves_nothing(run: Run, studies: Path) -> None:
    first = run("next", studies, "--peek", 3, "--json").document
    assert run("next", studies, "--peek", 3, "--json").document == first
    shown = run("next", studies, "--peek", 3).out
    assert all(pick["image_id"] in shown for pick in first["picks"])
    assert run("next", studies, "--json").document["id"] == first["picks"][0]["image_id"]


def test_next_says_when_all_is_labelled(run: Run, studies: Path, repository: Path) -> None:
    label(studies, repository, *(f"chest_{number:03d}" for number in range(1, 21)))
    assert run("next", studies, "--json").document["id"] is None
    assert "All 20 images are labelled." in run("next", studies).out


def test_next_and_map_say_that_no_image_can_be_used(run: Run, studies: Path) -> None:
    for file in studies.glob("*.nrrd"):
        file.write_text("this is no image")
    for command in ("embed", "next", "map"):
        ended = run(command, studies)
        assert ended.code == 2 and "None of the 25 images can be used" in ended.sentence, ended


def test_seed_that_is_given_later_is_not_said_of_the_plan_that_was_made(
    run: Run, studies: Path, tmp_path: Path
) -> None:
    later = ("--conf", "random_state", "77", "--json", "--output", tmp_path)
    assert run("plan", studies, *later).document["random_state"] == 0
    assert run("plan", studies, "--method", "random", *later).document["random_state"] == 77


def test_a_new_budget_becomes_the_campaigns(run: Run, studies: Path, tmp_path: Path) -> None:
    before = run("plan", studies, "--output", tmp_path, "--json").document["picks"]
    cut = run("plan", studies, "--budget", 5, "--output", tmp_path, "--json").document
    assert [pick["image_id"] for pick in cut["picks"]] == [pick["image_id"] for pick in before[:5]]
    assert run("status", studies, "--json").document["budget"] == 5
    shown = run("plan", studies, "--output", tmp_path).out
    assert "5 of 20 images" in shown and "the campaign's plan" in shown
    assert all(pick["image_id"] in shown for pick in cut["picks"])


def test_labels_that_no_plan_asked_for_are_counted_and_said(run: Run, studies: Path, repository: Path) -> None:
    order = ["plan", studies, "--budget", 4, "--output", studies.parent]
    planned = {pick["image_id"] for pick in run(*order, "--json").document["picks"]}
    others = sorted({f"chest_{number:03d}" for number in range(1, 16)} - planned)[:4]
    label(studies, repository, *others[:3])
    open_campaign(str(studies), {}, begin=True).campaign.use(who=None, budget=5)
    some = run("plan", studies, "--output", studies.parent)
    assert "2 of 20 images" in some.out and "more than the pool holds" not in some.out
    assert "3 others, labelled or served already, count toward the budget of 5" in some.out
    label(studies, repository, others[3])
    none_left = run(*order)
    assert (none_left.code, none_left.error) == (0, "") and "0 of 20 images" in none_left.out
    document = run(*order, "--json").document
    assert (document["picks"], document["n_taken"]) == ([], 4)
    assert (studies.parent / "plan.csv").read_text().startswith("rank,image_id,cluster,reason,distance,state,x,y")
    everything = run("plan", studies, "--budget", 30, "--output", studies.parent)
    assert "the budget of 30 is more than the pool holds" in everything.out


def test_plan_leaves_out_an_image_that_was_taken_out_of_the_folder(run: Run, studies: Path, tmp_path: Path) -> None:
    before = run("plan", studies, "--output", tmp_path, "--json").document["picks"]
    (studies / f"{before[2]['image_id']}.nrrd").unlink()
    shown = run("plan", studies, "--output", tmp_path, "--json")
    assert (shown.code, shown.error) == (0, "")
    left = [pick["image_id"] for pick in shown.document["picks"]]
    assert left == [pick["image_id"] for pick in (*before[:2], *before[3:])]


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "cold_start" in method.stages])
def test_plan_shows_every_method_of_the_cold_start(run: Run, planned: Path, tmp_path: Path, name: str) -> None:
    studies = planned / "studies"
    ours = run("status", studies, "--json").document
    found = run("plan", studies, "--method", name, "--budget", 6, "--json", "--output", tmp_path).document
    assert (found["method"], found["kept"]) == (name, False)
    assert len({pick["image_id"] for pick in found["picks"]}) == found["budget"]
    assert all(pick["reason"] for pick in found["picks"])
    assert (tmp_path / "plan.csv").is_file() and (tmp_path / "plan.png").is_file()
    assert run("status", studies, "--json").document == ours


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "cold_start" not in method.stages])
def test_plan_of_an_active_method_says_what_is_missing(run: Run, planned: Path, tmp_path: Path, name: str) -> None:
    ended = run("plan", planned / "studies", "--method", name, "--output", tmp_path)
    assert ended.code == 2 and "needs a trained model" in ended.sentence and "k_means" in ended.sentence


def test_plan_of_active_methods_with_a_model(run: Run, studies: Path, repository: Path, tmp_path: Path) -> None:
    label(studies, repository, "chest_001", "chest_002")
    conf = {"epochs": "1", "spatial_size": "32,32"}
    campaign = open_campaign(str(studies), conf, begin=True).campaign
    campaign.trainings.train(campaign.settings, lambda report: None)
    unscored = run("plan", studies, "--method", "combined", "--output", tmp_path)
    assert unscored.code == 2 and "has not scored the images yet" in unscored.sentence
    campaign.score()
    for name in ("entropy", "combined", "margin", "least_confidence", "bald"):
        found = run("plan", studies, "--method", name, "--budget", 6, "--output", tmp_path, "--json").document
        picked = {pick["image_id"] for pick in found["picks"]}
        assert len(picked) == 4 and not picked & {"chest_001", "chest_002"} and found["n_taken"] == 2
    shown = run("status", studies).out
    assert campaign.status()["model_version"] in shown and "model" in shown


def test_map_writes_a_picture_and_a_row_for_each_image(run: Run, studies: Path, tmp_path: Path) -> None:
    served = run("next", studies, "--annotator", "@lee", "--json").document["id"]
    found = run("map", studies, "--output", tmp_path / "new" / "map", "--json").document
    assert found["states"] == {"held_out": 4, "planned": 6, "pool": 13, "served": 1, "set_aside": 1}
    with Picture.open(found["map"]) as picture:
        assert picture.format == "PNG"
    with Path(found["table"]).open(newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 25 and rows[served]["annotator"] == "'@lee" and rows[served]["state"] == "served"
    assert float(rows[served]["x"]) == float(rows[served]["x"]) and rows["notes"]["x"] == ""


def test_replay_of_a_campaign_says_that_all_is_the_same(run: Run, studies: Path) -> None:
    for _ in range(2):
        run("next", studies, "--annotator", "lee")
    shown = run("replay", studies)
    assert shown.code == 0 and "come out the same" in shown.out and "DIFFERENT" not in shown.out
    listed = run("replay", studies, "--all", "--json").document
    assert listed["different"] == listed["cannot_tell"] == 0
    assert len(listed["lines"]) == listed["decisions"] == listed["same"] >= 4  # a map, a plan and two clicks
    assert {"map", "plan", "click"} <= {line["kind"] for line in listed["lines"]}


@pytest.mark.parametrize(
    "command",
    [
        *(["status"], ["map", "--output", "out"], ["next", "--annotator", "lee"], ["replay"], ["models", "list"]),
        ["export", "out", "--format", "monai"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_that_reads_says_that_the_database_is_damaged_and_leaves_it(
    studies: Path, run: Run, command: list[str]
) -> None:
    state = studies / "coldstart"
    content = (state / "coldstart.sqlite").read_bytes()
    (state / "coldstart.sqlite").write_bytes(damaged := content[:8192] + b"\xff" * 20_000 + content[28_192:])
    words = 2 if command[0] == "models" else 1
    ended = run(*command[:words], studies, *command[words:], "--json")
    assert ended.code == 2 and "is damaged" in ended.document["error"] and "Restore a backup" in ended.document["error"]
    assert (state / "coldstart.sqlite").read_bytes() == damaged and not list(state.glob("*damaged*"))


def test_replay_of_a_forged_log_ends_with_1(studies: Path, run: Run) -> None:
    run("next", studies, "--annotator", "lee")
    with closing(sqlite3.connect(studies / "coldstart" / "coldstart.sqlite")) as database, database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            if "decision" in trigger:
                database.execute(f"DROP TRIGGER {trigger}")
        database.execute("UPDATE decisions SET image_id = 'chest_999' WHERE kind = 'click'")
    shown = run("replay", studies)
    assert shown.code == 1 and "DIFFERENT" in shown.out and "chest_999" in shown.out
    found = run("replay", studies, "--json")
    assert found.code == 1 and found.document["different"] >= 1


def test_the_folder_of_the_database_is_enough_to_look(run: Run, studies: Path, tmp_path: Path) -> None:
    state = shutil.move(studies / "coldstart", tmp_path / "elsewhere")
    for command in (["status"], ["map", "--output", tmp_path], ["replay"], ["next", "--peek", 1]):
        assert run(command[0], state, *command[1:]).code == 0
    refused = run("plan", state)
    assert refused.code == 2 and "STUDIES must be the folder of the images" in refused.sentence


def test_replay_finds_a_database_that_is_elsewhere(run: Run, studies: Path, tmp_path: Path) -> None:
    state = shutil.move(studies / "coldstart", tmp_path / "elsewhere")
    refused = run("replay", studies)
    assert refused.code == 2 and "--conf state_dir" in refused.sentence
    assert "come out the same" in run("replay", studies, "--conf", "state_dir", state).out
    other = run("replay", studies, "--conf", "budget", 3)
    assert other.code == 2 and "--conf must be state_dir here" in other.sentence and "'budget'" in other.sentence


def test_embed_goes_on_where_images_arrived(run: Run, studies: Path, repository: Path) -> None:
    assert "Nothing to do" in run("embed", studies).out
    shutil.copyfile(repository / "sample-data" / "chest" / "chest_050.nrrd", studies / "chest_050.nrrd")  # just now
    found = run("embed", studies, "--json").document
    assert (found["embedded"], found["images"], found["n_set_aside"]) == (1, 21, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["status", "{tmp}/absent"], "absent', which does not exist"),
        (["plan", "{tmp}/file.png"], "which is a file"),
        (["plan", "{tmp}/empty"], "holds no images"),
        (
            ["plan", "{studies}", "--conf", "state_dir", "{tmp}/file.png"],
            "--conf state_dir must be a folder; ",
        ),
        (
            ["restore", "{tmp}/empty", "{tmp}/new"],
            "empty is a folder",
        ),
        (["embed", "{tmp}/broken", *CONF], "None of the 2 images can be used. The first:"),
        (["status", "{tmp}/empty"], "No campaign has begun for"),
        (["map", "{tmp}/empty"], "No campaign has begun for"),
        (["replay", "{tmp}/empty"], "No campaign has begun for"),
        (["next", "{tmp}/empty"], "No campaign has begun for"),
        (["plan", "{studies}", "--preset", "chest"], "The nearest valid name is 'chest_xray'"),
        (["status", "{studies}", "--conf", "budgets", "3"], "nearest valid name is 'budget'"),
        (["status", "{studies}", "--conf", "budget"], "--conf must be followed by a key and a value"),
        (["plan", "{studies}", "--method", "k_center"], "Did you mean 'k_center_"),
        (["plan", "{studies}", "--method", "random", "--budget", "0"], "--budget"),
        (["next", "{studies}", "--strategy", "best"], "--strategy must be one of coldstart_al"),
        (["next", "{studies}", "--alpha", "1.5"], "--alpha"),
        (["next", "{studies}", "--annotator", "a\x00b"], "without control characters"),
        (["next", "{studies}", "--peek", "2", "--strategy", "k_means"], "--peek shows what `coldstart_al`"),
        (["map", "{studies}", "--output", "{tmp}/file.png"], "is a file"),
        (["status", "http://user:secret@localhost/dicom-web"], "must not hold a user or password"),
        (["status", "{tmp}/\udcff"], "must be a path in UTF-8"),
    ],
)
def test_error_is_one_sentence_and_exit_code_2(
    run: Run, planned: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for name in ("file.png", "broken/a.png", "broken/b.nrrd"):
        (tmp_path / name).write_bytes(b"no image")
    words = [word.format(tmp=tmp_path, studies=planned / "studies") for word in arguments]
    ended = run(*words)
    assert (ended.code, ended.out) == (2, "")
    assert sentence in ended.sentence and "Traceback" not in ended.error
    assert list((tmp_path / "empty").iterdir()) == []


def test_error_is_a_document_where_json_is_asked_for(run: Run, tmp_path: Path) -> None:
    ended = run("status", tmp_path / "absent", "--json")
    assert ended.code == 2
    assert ended.document["error"] in ended.sentence


def test_next_without_a_plan_says_how_to_get_one(run: Run, repository: Path, tmp_path: Path) -> None:
    studies = copy_images(tmp_path / "studies", repository, 3)
    open_campaign(str(studies), {"preset": "sample"}, begin=True)
    ended = run("next", studies)
    assert ended.code == 2 and "There is no plan yet" in ended.sentence and "coldstart plan" in ended.sentence
    assert run("map", studies).code == 2
    assert "not embedded yet" in run("status", studies).out
    assert run("next", studies, "--strategy", "uniform_random", "--json").document["id"] is not None


def test_database_of_a_newer_version_is_left_alone(run: Run, studies: Path) -> None:
    path = studies / "coldstart" / "coldstart.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    for command in COMMANDS:
        ended = run(command, studies)
        assert ended.code == 2 and "Install the newer version again" in ended.sentence
    assert path.read_bytes() == before


def test_a_campaign_without_a_note_asks_for_its_settings(run: Run, studies: Path) -> None:
    (studies / "coldstart" / "settings.json").unlink()
    ended = run("status", studies)
    assert ended.code == 2 and "--preset" in ended.sentence
    assert run("status", studies, *CONF).code == 0


def test_a_damaged_note_is_named(run: Run, studies: Path) -> None:
    (studies / "coldstart" / "settings.json").write_text("{")
    ended = run("status", studies)
    assert ended.code == 2 and "settings.json must hold the settings" in ended.sentence


def test_help_has_an_example(run: Run) -> None:
    for command in COMMANDS:
        shown = run(command, "--help")
        assert shown.code == 0 and f"coldstart {command} /data" in " ".join(shown.out.split())


def test_ctrl_c_ends_with_130_and_no_traceback(studies: Path, repository: Path) -> None:
    shutil.copy2(repository / "sample-data" / "chest" / "chest_050.nrrd", studies)
    with FileLock(studies / "coldstart" / "embedding.lock"):
        command = subprocess.Popen(
            [COMMAND, "embed", str(studies)],
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background of a shell ignores Ctrl-C, and what it starts inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        until = time.monotonic() + 120
        while time.monotonic() < until and not _knows(studies, "chest_050"):
            time.sleep(0.1)
        time.sleep(0.5)
        command.send_signal(signal.SIGINT)
        _, error = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "Traceback" not in error and "the same command goes on" in error


def _knows(studies: Path, image_id: str) -> bool:
    with closing(sqlite3.connect(studies / "coldstart" / "coldstart.sqlite")) as database:
        return database.execute("SELECT 1 FROM images WHERE image_id = ?", (image_id,)).fetchone() is not None


@pytest.mark.parametrize(
    "program",
    [
        "import sys; from coldstart.cli import main; sys.argv = ['coldstart', 'data']; main()",
        "from coldstart.cli_output import print_json; print_json({'found': 1})",
    ],
    ids=["table", "json"],
)
def test_a_closed_pipe_ends_quietly(program: str) -> None:
    command = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None and command.stderr is not None
    command.stdout.close()
    error = command.stderr.read()
    assert command.wait(120) == 141
    assert error == b""


def test_commands_beside_a_running_server(run: Run, studies: Path, tmp_path: Path) -> None:
    """They share its database and its settings, leave its work alone, and it sees what they did."""
    held_out = str(tmp_path / "heldout.txt")
    Path(held_out).write_text("chest_001\n")
    conf = {"preset": "sample", "encoder": "descriptor", "heldout": held_out, "prelabel": "0"}
    with Server(studies, conf, tmp_path / "server.log") as server:

        def info() -> dict[str, Any]:
            found: dict[str, Any] = requests.get(f"{server.url}/info/", timeout=30).json()["coldstart"]
            return found

        until = time.monotonic() + 120
        while time.monotonic() < until and info()["images"] != N_IMAGES - 1:
            time.sleep(0.5)
        found = run("status", studies, "--json").document
        assert found["server"] and (found["held_out"], found["budget"]) == (1, 7)  # the budget that `plan` chose
        for key, value in (("heldout", str(studies.parent / "absent")), ("encoder", "random"), ("budget", "3")):
            assert run("embed", studies, "--conf", key, value).code == 2
        mine = run("next", studies, "--annotator", "lee", "--json").document["id"]
        click = requests.post(f"{server.url}/activelearning/coldstart_al", json={"client_id": "kim"}, timeout=30)
        assert click.json()["id"] != mine
        made = run("plan", studies, "--budget", 12, "--output", tmp_path, "--json").document
        assert len(made["picks"]) == 12
        found = info()
        assert (found["planned"], found["budget"], found["held_out"]) == (12, 12, 1)
        assert run("replay", studies).code == 0
    assert not run("status", studies, "--json").document["server"]
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_a_command_may_not_undo_what_the_server_does(studies: Path) -> None:
    mark = ServerMark(studies / "coldstart")
    second = ServerMark(studies / "coldstart")
    mark.close()  # the other server is still there
    with pytest.raises(SettingsError, match="`encoder` must be what the server that runs this campaign has"):
        open_campaign(str(studies), {"encoder": "random"}, begin=True)
    assert open_campaign(str(studies), {"device": "cpu"}, begin=True).has_server
    second.close()
    assert not open_campaign(str(studies), {}, begin=False).has_server


def test_labels_that_were_copied_count_at_once(studies: Path, repository: Path) -> None:
    label(studies, repository, "chest_002", "chest_003")
    campaign: Campaign = open_campaign(str(studies), {}, begin=False).campaign
    with campaign.store.reading() as session:
        assert len(session.scalars(select(Label)).all()) == 2
