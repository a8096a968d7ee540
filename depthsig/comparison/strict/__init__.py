"""Unit tests of a claim: does it survive other prompts, fail where it must, and beat what costs nothing?"""
