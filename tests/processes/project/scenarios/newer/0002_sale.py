from importlib import import_module

Migration = import_module("scenarios.plain.0002_sale").Migration
