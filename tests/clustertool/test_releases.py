"""Downloads from a site on loopback: the wrong is refused, what breaks off is continued, and nothing is half there."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
from detinf_cluster import releases
from detinf_cluster.build import VERSION
from detinf_cluster.cache import ClusterError, cache_dir
from detinf_cluster.sources import CONTROL_PLANE
from download_site import Answer, Site
from tool_environment import TOOL, environment

CONTENT = random.Random(7).randbytes(1_500_000)
PATH = f"/{VERSION}/bin/linux/amd64/kube-proxy"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many tries as ever, without the waits between them; and the releases of one architecture."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with stamina.set_testing(True, attempts=releases.ATTEMPTS):
        yield


@pytest.fixture
def site(from_site: Site) -> Site:
    from_site.publish(PATH, CONTENT)
    return from_site


def in_cache() -> set[str]:
    """Return the files of the releases' folders, their locks aside."""
    files = (cache_dir() / "releases").rglob("*")
    return {path.name for path in files if path.is_file() and path.suffix != ".lock"}


def test_program_is_checked_executable_and_fetched_once(site: Site) -> None:
    program = releases.program("kube-proxy")
    assert program.read_bytes() == CONTENT
    assert program.stat().st_mode & 0o111
    assert in_cache() == {"kube-proxy"}
    assert releases.program("kube-proxy") == program
    assert site.asked(PATH) == [0]


def test_two_that_want_the_same_download_it_once(site: Site) -> None:
    site.answers[PATH] = [Answer(cut=1000, stall=True)]
    found: list[Path] = []
    both = [threading.Thread(target=lambda: found.append(releases.program("kube-proxy"))) for _ in range(2)]
    for thread in both:
        thread.start()
    assert site.stalled.wait(60)
    site.closing.set()
    for thread in both:
        thread.join()
    assert [path.read_bytes() for path in found] == [CONTENT, CONTENT]
    assert site.asked(PATH) == [0, 1000]


def test_redirected_download_arrives(site: Site) -> None:
    site.publish("/elsewhere", CONTENT)
    site.answers[PATH] = [Answer(location="/elsewhere")]
    assert releases.program("kube-proxy").read_bytes() == CONTENT


def test_wrong_checksum_is_refused_and_nothing_kept(site: Site) -> None:
    site.files[PATH] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(ClusterError, match=r"kube-proxy has the SHA-256 [0-9a-f]{64}, but [0-9a-f]{64} is published"):
        releases.program("kube-proxy")
    assert in_cache() == set()
    assert site.asked(PATH) == [0]  # the same bytes again would not help


def test_truncated_download_is_continued_where_it_broke_off(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.answers[PATH] = [Answer(cut=400_000), Answer(cut=500_000)]
    assert releases.program("kube-proxy").read_bytes() == CONTENT
    assert site.asked(PATH) == [0, 400_000, 900_000]
    assert in_cache() == {"kube-proxy"}
    assert "broke off at 0 of 1 MiB; try 2 of 5" in capsys.readouterr().out


def test_download_that_always_breaks_off_is_given_up_and_continued_by_the_next_run(site: Site) -> None:
    site.answers[PATH] = [Answer(cut=200_000)] * releases.ATTEMPTS
    with pytest.raises(ClusterError, match="broke off at 0 of 1 MiB; given up after 5 tries; what came is kept"):
        releases.program("kube-proxy")
    assert in_cache() == {"kube-proxy.part"}
    assert releases.program("kube-proxy").read_bytes() == CONTENT
    assert site.asked(PATH)[-1] == 1_000_000
    assert in_cache() == {"kube-proxy"}


def test_stalled_download_is_given_up_and_continued(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "STALL_SECONDS", 1.0)
    site.answers[PATH] = [Answer(cut=300_000, stall=True)]
    assert releases.program("kube-proxy").read_bytes() == CONTENT
    assert site.asked(PATH) == [0, 300_000]


def test_slow_download_shows_how_far_it_is(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(releases, "PROGRESS_SECONDS", 0.0)
    assert releases.program("kube-proxy").read_bytes() == CONTENT
    assert site.asked(PATH) == [0]
    assert re.search(r"kube-proxy: 1 of 1 MiB, about 0 s left", capsys.readouterr().out)


def test_site_without_ranges_is_read_from_the_start_again(site: Site) -> None:
    site.answers[PATH] = [Answer(cut=400_000), Answer(ranges=False)]
    assert releases.program("kube-proxy").read_bytes() == CONTENT
    assert site.asked(PATH) == [0, 400_000]


@pytest.mark.parametrize("beginning", [b"x" * 5000, CONTENT + b"surplus"], ids=["of another file", "longer than all"])
def test_beginning_that_is_not_of_this_file_is_thrown_away(site: Site, beginning: bytes) -> None:
    folder = cache_dir() / "releases" / f"{VERSION}-amd64"
    folder.mkdir(parents=True)
    (folder / "kube-proxy.part").write_bytes(beginning)
    assert releases.program("kube-proxy").read_bytes() == CONTENT
    assert site.asked(PATH) == [len(beginning), 0]


def test_whole_download_that_lacks_only_its_name_is_not_fetched_again(site: Site) -> None:
    folder = cache_dir() / "releases" / f"{VERSION}-amd64"
    folder.mkdir(parents=True)
    (folder / "kube-proxy.part").write_bytes(CONTENT)
    assert releases.program("kube-proxy").read_bytes() == CONTENT
    assert site.asked(PATH) == []


def test_full_disk_is_told_and_not_tried_again(site: Site) -> None:
    part = cache_dir() / "releases" / f"{VERSION}-amd64" / "kube-proxy.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(ClusterError, match=f"{part}: No space left on device"):
        releases.program("kube-proxy")
    assert site.asked(PATH) == [0]


def test_missing_file_is_told_at_once(site: Site) -> None:
    del site.files[PATH]
    with pytest.raises(ClusterError, match=rf"{PATH} answered 404 .*--help for the other sources"):
        releases.program("kube-proxy")
    assert site.asked(PATH) == [0]
    assert in_cache() == set()


def test_server_error_is_tried_again(site: Site) -> None:
    site.answers[PATH] = [Answer(500), Answer(503), Answer(429)]
    site.answers[f"{PATH}.sha256"] = [Answer(502), Answer(cut=20)]
    assert releases.program("kube-proxy").read_bytes() == CONTENT


@pytest.mark.parametrize("path", [PATH, f"{PATH}.sha256"])
def test_server_error_that_stays_is_told(site: Site, path: str) -> None:
    site.answers[path] = [Answer(500)] * releases.ATTEMPTS
    with pytest.raises(ClusterError, match=rf"{path} answered 500; given up after 5 tries"):
        releases.program("kube-proxy")
    assert in_cache() == set()


def test_site_that_is_not_there_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETINF_KUBERNETES_RELEASES", "http://127.0.0.1:9")
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:9/.*refused; given up after 5 tries"):
        releases.program("kube-proxy")
    assert site.requests == []


def test_address_that_is_no_web_address_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETINF_KUBERNETES_RELEASES", "/srv/mirror")
    with pytest.raises(ClusterError, match=r"DETINF_KUBERNETES_RELEASES: '/srv/mirror' is no http\(s\) address"):
        releases.program("kube-proxy")
    assert site.requests == []


@pytest.mark.parametrize("text", [b"<html>sign in</html>", b"", b"0" * 64 + b"  another-file"])
def test_list_without_the_checksum_is_refused_before_the_download(site: Site, text: bytes) -> None:
    site.files[f"{PATH}.sha256"] = text
    with pytest.raises(ClusterError, match=r"kube-proxy\.sha256 holds no SHA-256 of kube-proxy"):
        releases.program("kube-proxy")
    assert site.asked(PATH) == []


def test_etcd_comes_out_of_its_archive(site: Site) -> None:
    path = site.publish_etcd(releases.ETCD_VERSION, CONTENT)
    site.answers[path] = [Answer(cut=400_000)]
    program = releases.program("etcd")
    assert program.read_bytes() == CONTENT
    assert program.stat().st_mode & 0o111
    assert in_cache() == {"etcd"}


def test_archive_without_etcd_is_refused(site: Site) -> None:
    site.publish_etcd(releases.ETCD_VERSION, CONTENT, member="README.md")
    with pytest.raises(ClusterError, match=r"has no etcd-v[0-9.]+-linux-amd64/etcd"):
        releases.program("etcd")
    assert in_cache() == set()


def test_machine_without_releases_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ClusterError, match="no releases for riscv64"):
        releases.program("kube-proxy")
    assert site.requests == []


def test_same_versions_are_downloaded_and_built() -> None:
    modules = (TOOL / "kube" / "go.mod").read_text(encoding="utf-8")
    assert f"\tk8s.io/kubernetes {VERSION}\n" in modules
    assert f"\tgo.etcd.io/etcd/server/v3 {releases.ETCD_VERSION}\n" in modules


def test_killed_download_leaves_no_program_and_the_next_one_goes_on(site: Site) -> None:
    for name in CONTROL_PLANE:
        if name != "etcd":
            site.publish(f"/{VERSION}/bin/linux/amd64/{name}", CONTENT)
    path = site.publish_etcd(releases.ETCD_VERSION, CONTENT)
    site.answers[path] = [Answer(cut=700_000, stall=True)]
    build = [sys.executable, "-m", "detinf_cluster", "build", "kube"]
    with subprocess.Popen(build, env=environment(), stdout=subprocess.DEVNULL) as process:
        assert site.stalled.wait(60)
        part = cache_dir() / "releases" / f"{releases.ETCD_VERSION}-amd64" / "etcd.part"
        while not part.is_file() or part.stat().st_size < 262_144:  # what is on disk, not what was sent
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert in_cache() == {"etcd.part"}
    done = subprocess.run(build, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert in_cache() == set(CONTROL_PLANE)
    first, second = site.asked(path)
    assert first == 0 < second <= 700_000
