"""Control groups where the kernel's folders are imitated by plain ones."""

from pathlib import Path

from sandbox.local import cgroups


def test_a_group_of_version_2_is_one_folder_with_both_bounds(tmp_path: Path) -> None:
    group = cgroups.make("one", (tmp_path,))
    assert group is not None
    group.bound(memory_bytes=1000, processes=7)
    assert group.folders == (tmp_path / "one",)
    assert (tmp_path / "one" / "memory.max").read_text() == "1000"
    assert (tmp_path / "one" / "pids.max").read_text() == "7"
    group.add(42)
    assert (tmp_path / "one" / "cgroup.procs").read_text() == "42"


def test_a_group_of_version_1_is_a_folder_per_controller(tmp_path: Path) -> None:
    for name in ("memory", "pids"):
        (tmp_path / name).mkdir()
    group = cgroups.make("one", (tmp_path / "memory", tmp_path / "pids"))
    assert group is not None
    group.bound(memory_bytes=1000, processes=7)
    assert (tmp_path / "memory" / "one" / "memory.limit_in_bytes").read_text() == "1000"
    assert (tmp_path / "pids" / "one" / "pids.max").read_text() == "7"


def test_without_a_writable_hierarchy_there_is_no_group_and_nothing_is_left(tmp_path: Path) -> None:
    assert cgroups.make("one", (tmp_path / "missing",)) is None
    (tmp_path / "memory").mkdir()
    assert cgroups.make("one", (tmp_path / "memory", tmp_path / "missing")) is None
    assert list((tmp_path / "memory").iterdir()) == []


def test_groups_whose_owner_is_gone_are_removed_and_others_stay(tmp_path: Path) -> None:
    gone, alive, other = "mimo-sandbox-4194999-x", "mimo-sandbox-1-x", "something-else"
    for name in (gone, alive, other):
        (tmp_path / name).mkdir()
    cgroups.remove_abandoned("mimo-sandbox-", (tmp_path,))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [alive, other]
