"""The package here is nobody's but its own: it is tested as a user of genbench would, by ../test_third_party.py."""

collect_ignore = ["genbench-halo"]
