"""Fuzzing of what comes from outside: `make fuzz`. See CONTRIBUTING.md, Properties and fuzzing."""
