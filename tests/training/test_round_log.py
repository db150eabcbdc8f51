"""The log of a worker's rounds on disk."""

from adapad_ray.results import WorkerCost
from adapad_ray.training.record import RoundStats
from adapad_ray.training.round_log import RoundLog, load_rounds


def test_a_line_that_a_kill_has_cut_does_not_count(tmp_path):
    def stats(number):
        return RoundStats(number, 2 * number, {1: 0.5}, {}, 10, 0, 7, 1.0, 0.5, 0.25, 3, 4)

    log = RoundLog(tmp_path, 0)
    for number in (1, 2, 3):
        log(stats(number))
    log.close()
    path = tmp_path / "rounds" / "worker-0.jsonl"
    path.write_text(path.read_text()[:-20])
    assert load_rounds(tmp_path) == {0: [stats(1), stats(2)]}
    again = RoundLog(tmp_path, 0)
    again.rewind(3, 1)
    again(stats(3))
    again.close()
    assert load_rounds(tmp_path) == {0: [stats(1), stats(2), stats(3)]}
    assert again.cost == WorkerCost(
        rank=0, compute_seconds=3, wait_seconds=1.5, exchange_seconds=0.75, bytes_published=9, bytes_fetched=12
    )
