from importlib import import_module

Migration = import_module("scenarios.plain.0001_initial").Migration
