"""Fault injection: every octet is cut at, every reply is replaced, and servers act at random.

What is run, and how much of it, is printed at the end of ``pytest tests/faults``:

* cuts: `test_cuts`, `test_pool_cuts`, `test_replies_while_writing`, and `test_real_cuts` with real
  servers. `cutting` has the server that stops, and `proxy` what stops in front of a real one;
  `repertoire` has what is played, and `visits` what has to come of it.
* replies: `test_codes` and `test_many_codes`, by the rules of `table` and `many_table`; `cells` has
  what the server says.
* at random: `test_session_machine` with the server in `adversary`, and `test_fuzz`, which runs what
  the coverage-guided fuzzers run.
"""
