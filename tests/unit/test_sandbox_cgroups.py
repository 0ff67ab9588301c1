"""Control groups where the kernel's folders are imitated by plain ones."""

from pathlib import Path

from sandbox import cgroups


def test_a_group_of_version_2_is_one_folder_with_both_bounds(tmp_path: Path) -> None:
    group = cgroups.make("one", (tmp_path,), memory_bytes=1000, processes=7)
    assert group is not None
    assert group.folders == (tmp_path / "one",)
    assert (tmp_path / "one" / "memory.max").read_text() == "1000"
    assert (tmp_path / "one" / "pids.max").read_text() == "7"
    group.add(42)
    assert (tmp_path / "one" / "cgroup.procs").read_text() == "42"


def test_a_group_of_version_1_is_a_folder_per_controller(tmp_path: Path) -> None:
    for name in ("memory", "pids"):
        (tmp_path / name).mkdir()
    group = cgroups.make("one", (tmp_path / "memory", tmp_path / "pids"), memory_bytes=1000, processes=7)
    assert group is not None
    assert (tmp_path / "memory" / "one" / "memory.limit_in_bytes").read_text() == "1000"
    assert (tmp_path / "pids" / "one" / "pids.max").read_text() == "7"


def test_without_a_writable_hierarchy_there_is_no_group_and_nothing_is_left(tmp_path: Path) -> None:
    assert cgroups.make("one", (tmp_path / "missing",), memory_bytes=1, processes=1) is None
    (tmp_path / "memory").mkdir()
    assert cgroups.make("one", (tmp_path / "memory", tmp_path / "missing"), memory_bytes=1, processes=1) is None
    assert list((tmp_path / "memory").iterdir()) == []


def test_groups_whose_owner_is_gone_are_removed_and_others_stay(tmp_path: Path) -> None:
    gone, alive, other = "mimo-sandbox-4194999-x", "mimo-sandbox-1-x", "something-else"
    for name in (gone, alive, other):
        (tmp_path / name).mkdir()
    cgroups.remove_abandoned("mimo-sandbox-", (tmp_path,))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [alive, other]


def test_the_kernels_counts_are_read_in_both_versions() -> None:
    assert cgroups.count_kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n") == 2
    assert cgroups.count_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n") == 4
    assert cgroups.process_memory("anon 4096\nfile 8192\nshmem 1\n") == 4096
    assert cgroups.process_memory("cache 1\nrss 2\ntotal_cache 3\ntotal_rss 4\n") == 4
