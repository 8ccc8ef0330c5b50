"""Prints a file of TOML or YAML as JSON."""

import json
import sys
import tomllib

import yaml

(path,) = sys.argv[1:]
with open(path, "rb") as file:
    data = tomllib.load(file) if path.endswith(".toml") else yaml.safe_load(file)
json.dump(data, sys.stdout)
