"""Coverage-guided fuzzing of everything that reads what a stranger wrote; for development only.

    pip install '.[test,fuzz]'
    python -m tests.fuzz reply --seconds 600      one target
    python -m tests.fuzz all --seconds 600        all of them, one after the other
    python -m tests.fuzz reply --replay FILE      one input again, without atheris

A target is a module with `SEEDS`, words worth trying (`WORDS`) and ``check(source)``, which makes
of some bytes what the code under test takes, and raises if a promise is broken. Promises are
compared with a second, slow and obvious way of computing the same; "does not crash" is the least.

Targets know nothing of atheris, so that `tests.faults.test_fuzz` runs each of them in the normal
suite, on its seeds and on bytes that hypothesis draws. What a fuzzer finds becomes a test beside
the other tests of that module, not a file here.
"""
