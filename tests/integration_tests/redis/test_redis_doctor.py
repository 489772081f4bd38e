"""What `tokenopt doctor` says of a real Redis."""

from collections.abc import Callable
from typing import Any

from langchain_tokenopt.advisor.doctor import examine


def redis_findings(url: str) -> dict[str, Any]:
    return {each.subject: each for each in examine(redis=url) if each.subject.startswith("Redis")}


def test_a_servers_version_features_and_policy_are_told(redis_server: Any) -> None:
    found = redis_findings(redis_server.url)

    version = redis_server.admin.info("server")["redis_version"]
    assert version in found["Redis"].told
    assert "one server" in found["Redis"].told
    has_vectors = int(version.split(".")[0]) >= 8
    assert found["Redis vector sets"].status == ("good" if has_vectors else "note")
    assert found["Redis tracking"].status == "good"


def test_a_redis_that_refuses_writes_when_it_is_full_is_noted(
    make_server: Callable[..., Any],
) -> None:
    full = make_server("--maxmemory-policy", "noeviction")
    roomy = make_server("--maxmemory-policy", "allkeys-lru")

    noted, good = redis_findings(full.url), redis_findings(roomy.url)

    assert noted["Redis memory"].status == "note"
    assert "allkeys-lru makes room" in noted["Redis memory"].advice
    assert good["Redis memory"].status == "good"


def test_a_redis_that_forbids_to_read_its_settings_is_good_all_the_same(
    make_server: Callable[..., Any],
) -> None:
    managed = make_server("--rename-command", "CONFIG", "")

    found = redis_findings(managed.url)

    assert found["Redis"].status == "good"
    assert "Redis memory" not in found


def test_a_redis_that_was_killed_is_bad(own_server: Any) -> None:
    own_server.kill()

    assert redis_findings(own_server.url)["Redis"].status == "bad"
