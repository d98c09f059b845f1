"""Fault injection: cuts after every byte, every reply replaced, and servers that act at random.

``pytest tests/faults`` prints at its end how many faults were injected:

* Cuts: `test_cuts`, `test_pool_cuts` and `test_replies_while_writing` use the server of
  `tests.support.cutting_server`; `test_real_cuts` puts `tests.support.cutting_proxy` in front of
  real servers. `tests.support.session_list` lists the sessions, and `tests.support.sessions` says
  what result each cut must have.
* Replies: `test_codes` and `test_many_codes` follow the rules of `tests.support.reply_cases` and
  `tests.support.reply_cases_many`; `tests.support.reply_case_server` gives the replies.
* At random: `test_session_machine` uses the server of `tests.support.arbitrary_server`, and
  `test_fuzz` runs the targets of the coverage-guided fuzzers.
"""
