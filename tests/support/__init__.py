"""Helpers shared by the tests: servers, peers and builders."""
