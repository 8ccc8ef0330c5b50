"""Checks a file of Docker Compose by the schema that the program docker-compose has inside."""

import importlib.util
import json
import pathlib
import sys

import jsonschema
import yaml

package = importlib.util.find_spec("compose").submodule_search_locations[0]
schema = json.loads(pathlib.Path(package, "config", "compose_spec.json").read_text())
jsonschema.validate(yaml.safe_load(pathlib.Path(sys.argv[1]).read_text()), schema)
