from importlib import import_module

Migration = import_module("scenarios.plain.0004_name_index").Migration
