#!/usr/bin/env python3
"""Prints the cases of a suite of http_desync_guardian as JSON: name, tier, and the head of a request as numbers.

    desync_cases.py FOLDER    the folder with the YAML files of the suite"""

import json
import pathlib
import sys

import yaml


def octets(text):
    """The bytes of a text. The suite writes a byte as the character of that number."""
    try:
        return str(text).encode("latin-1")
    except UnicodeEncodeError:
        return str(text).encode()


def head(case):
    line = [octets(case[part]) for part in ("method", "uri", "version") if case[part]]
    fields = [octets(field["name"]) + b": " + octets(field["value"]) for field in case["headers"] or []]
    return b"\r\n".join([b" ".join(line), *fields, b""])


def cases(folder):
    for path in sorted(pathlib.Path(folder).glob("*.yaml")):
        for case in yaml.safe_load(path.read_text(encoding="utf-8")):
            yield {"name": f"{path.name}: {case['name']}", "tier": case["expected"]["tier"], "head": list(head(case))}


print(json.dumps(list(cases(sys.argv[1]))))
