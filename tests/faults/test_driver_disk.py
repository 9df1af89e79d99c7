"""The disk is full: a small file system in memory, which only the processes of the test see."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search.folder import SearchFolder
from tests.faults.searches import check_whole, fixed_list, ran, run_in, values, written

INSIDE = ["unshare", "--user", "--map-root-user", "--mount"]

pytestmark = pytest.mark.skipif(
    subprocess.run([*INSIDE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode != 0,
    reason="this machine lets nobody mount a file system",
)

RECORD = """
import os, sys
from pathlib import Path
from search.record import State
from search.study import Study, open_storage, repair_journal
from spaces.mistakes import Mistake
from tests.faults.test_driver_storage import fill

small = Path(sys.argv[1])
study = Study.create(open_storage(small, None), "s", "maximize", {})
try:
    while True:
        fill(study, 1)
except Mistake as mistake:
    print(mistake)
try:
    fill(study, 1)
except Mistake:
    print("nothing more is written")
known = [(t.number, t.state, t.done, t.value) for t in study.trials]
seen = Study.read(open_storage(small, None), "s").trials
assert seen == study.trials, "what a reader sees while the disk is full"
repair_journal(small / "study.journal")  # there is no room for what it cuts off
try:
    Study.open(open_storage(small, None), "s")  # carries out an end that is only half written
except Mistake as mistake:
    assert "No space left on device" in str(mistake)
(small / "filler").unlink()
repair_journal(small / "study.journal")
again = Study.open(open_storage(small, None), "s")
assert again.trials == study.trials
fill(again, 1)
assert [(t.number, t.state, t.done, t.value) for t in Study.read(open_storage(small, None), "s").trials][:-1] == known
print(len(known), "trials before")
"""


@pytest.mark.slow
def test_the_record(tmp_path: Path) -> None:
    """At a full disk the record ends with a sentence that says so and how to go on; all that it held stays readable,
    and it goes on once there is room."""
    small = tmp_path / "small"
    small.mkdir()
    script = tmp_path / "record.py"
    script.write_text(RECORD)
    mounted = f"mount -t tmpfs -o size=128k tmpfs {small} && head -c 64k /dev/zero > {small}/filler && "
    done = run_in(tmp_path, f"import subprocess, sys; sys.exit(subprocess.run({INSIDE!r} + ['bash', '-c', {mounted!r} "
                  f"+ 'PYTHONPATH=. exec {sys.executable} {script} {small}']).returncode)")  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert "the record can't be written (No space left on device); free space" in said[0]
    assert "medtune resume s" in said[0] and said[1] == "nothing more is written"
    print(said[-1], "the disk was full")


SEARCH = """
set -u
mount -t tmpfs -o size=48m tmpfs $small
$medtune search $settings > $out/search.txt 2>&1 &
search=$!
until [ "$(grep -c medtune:end $small/fixed/study.journal 2>&1)" -ge 2 ] 2>/dev/null; do
    kill -0 $search || exit 1
    sleep 0.2
done
head -c $((1024 * $(df --output=avail -k $small | tail -1) - 1024 * $left)) /dev/zero > $small/filler
wait $search
echo $? > $out/search.code
$medtune status $small/fixed --json > $out/status.json 2>> $out/status.txt
$medtune resume $small/fixed > $out/still.txt 2>&1
echo $? > $out/still.code
rm $small/filler
$medtune resume $small/fixed > $out/resume.txt 2>&1
echo $? > $out/resume.code
cp -r $small/fixed $out/fixed
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("left", [24, 0], ids=["at a checkpoint", "at everything"])
def test_a_search(tmp_path: Path, left: int) -> None:
    """A search on a full disk ends with one sentence that says so; no trial fails by it, all that was recorded stays
    readable; once there is room a resume ends with the values of a search that was never disturbed."""
    small, out = tmp_path / "small", tmp_path / "out"
    small.mkdir()
    out.mkdir()
    settings = fixed_list(tmp_path, 6, 20, storage=str(small), cache=str(tmp_path / "cache"))
    file = written(tmp_path, settings)
    script = f"small={small} out={out} settings={file} left={left} medtune='{sys.executable} -m search.cli'\n{SEARCH}"
    done = subprocess.run([*INSIDE, "bash", "-c", script], capture_output=True, text=True, timeout=2000)
    assert done.returncode == 0, done.stderr + (out / "search.txt").read_text()
    said = (out / "search.txt").read_text()
    print(said.splitlines()[-1])
    assert (out / "search.code").read_text().strip() == "2", said
    assert "No space left on device" in said and "free space" in said and "Traceback" not in said
    states = json.loads((out / "status.json").read_text())["states"]
    assert states["complete"] >= 2 and not states.keys() - {"complete", "running"}
    still = (out / "still.txt").read_text()
    assert (out / "still.code").read_text().strip() == "2", still
    assert "No space left on device" in still and "Traceback" not in still
    assert (out / "resume.code").read_text().strip() == "0", (out / "resume.txt").read_text()
    found = SearchFolder(out / "fixed")
    check_whole(found, 6)
    calm = written(tmp_path, {**settings, "name": "calm", "storage": str(tmp_path / "runs")})
    assert ran("search", calm).returncode == 0
    assert values(found) == values(SearchFolder(tmp_path / "runs" / "calm"))
    shutil.rmtree(out)
