"""The pod's user has a name in any image: what the C library says where the files are mounted, and what is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cann_families import read_families, write_toolkit

from detinf.guard.errors import RefusedError
from detinf.guard.users import with_entry, write_users

UID = 65532
IMAGE = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
ENTRY = f"detinf:x:{UID}:{UID}:detinf:/tmp:/sbin/nologin\n"
REST = f"{UID}:detinf:/tmp:/sbin/nologin"


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (IMAGE, IMAGE + ENTRY),
        (IMAGE.removesuffix("\n"), IMAGE + ENTRY),
        ("", ENTRY),
        (IMAGE + f"nonroot:x:{UID}:{UID}::/home/nonroot:/bin/sh\n", None),
        (IMAGE + "detinf:x:1000:1000::/home/detinf:/bin/sh\n", f"detinf-{UID}:x:{UID}:{REST}\n"),
        (IMAGE + "\n# remark\n+::::::\n", IMAGE + "\n# remark\n+::::::\n" + ENTRY),
    ],
    ids=["released", "without an end", "empty", "that knows the user", "with our name for another", "with odd lines"],
)
def test_entry_of_the_pods_user_is_added_and_the_images_are_kept(image: str, wanted: str | None) -> None:
    text = with_entry(image, UID, REST)
    assert text == image if wanted is None else text.startswith(image) and text.endswith(wanted)


def test_files_of_an_image_without_any_are_root_and_the_pods_user(tmp_path: Path) -> None:
    write_users(tmp_path, tmp_path / "root")
    number = os.getuid()
    for name in ("passwd", "group"):
        rows = (tmp_path / name).read_text().splitlines()
        assert rows[0].startswith("root:x:0:")
        assert any(row.split(":")[2] == str(number) for row in rows)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_text_that_is_not_utf_8_is_kept(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(b"j\xf6rg:x:7:7::/:/bin/sh\n")
    write_users(tmp_path, tmp_path)
    assert (tmp_path / "passwd").read_bytes().startswith(b"j\xf6rg:x:7:7::/:/bin/sh\n")


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"users: /proc/passwd: .*; mount a writable emptyDir there"):
        write_users(Path("/proc"), tmp_path)


ASK = "import os, pwd, grp; print(pwd.getpwuid(os.getuid()), grp.getgrgid(os.getgid()).gr_name, pwd.getpwnam('nobody'))"


@pytest.mark.parametrize("family", read_families())
def test_c_library_knows_the_pods_user_in_the_root_of_every_family(tmp_path: Path, place: object, family: str) -> None:
    """What the init container writes, mounted read-only over a read-only root, asked by a user who is not root."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    if os.geteuid() != 0 or python is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("NOT TESTED: mounts in a namespace of their own need root, unshare and a system python3")
    guard = Path(str(vars(place)["folder"])) / "guard"
    root, users = tmp_path / "image", tmp_path / "users"
    write_toolkit(root, read_families()[family])
    users.mkdir(mode=0o777)
    users.chmod(0o777)
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o755)
    runs = f"setpriv --reuid {UID} --regid {UID} --clear-groups"
    script = f"""
        set -e
        for name in usr lib lib64 bin sbin proc; do
          [ -e /$name ] || continue
          mkdir -p {root}/$name && mount --rbind -o ro /$name {root}/$name
        done
        mkdir -p {root}/tmp {root}/guard {root}/users
        mount --bind {guard} {root}/guard; mount --bind {users} {root}/users
        chroot {root} {runs} {python} -c "import os, pwd; pwd.getpwuid(os.getuid())" 2>/dev/null && exit 8
        chroot {root} {runs} {python} /guard users /users
        for name in passwd group; do mount --bind -o ro {users}/$name {root}/etc/$name; done
        chroot {root} {runs} {python} -c "{ASK}"
    """
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert f"pw_name='detinf', pw_passwd='x', pw_uid={UID}, pw_gid={UID}" in done.stdout
    assert "pw_dir='/tmp'" in done.stdout
    assert " detinf pwd.struct_passwd(pw_name='nobody'" in done.stdout
