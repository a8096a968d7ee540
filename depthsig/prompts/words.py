"""Letters, names and everyday nouns that generated prompts are made of."""

from __future__ import annotations

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = ("Ann", "Ben", "Eva", "Tom", "Mia", "Leo")
THINGS = ("apples", "books", "coins", "stones", "cards")
_NOUNS = """
time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work number night point home water
room mother area money story fact month lot right study book eye job word business issue side kind
head house service friend father power hour game line end member law car city community name
president team minute idea body information back parent face others level office door health person
art war history party result change morning reason research girl guy moment air teacher force
education
"""
WORDS = tuple(dict.fromkeys(_NOUNS.split()))
