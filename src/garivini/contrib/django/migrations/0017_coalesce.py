"""Runs the revision of this name."""

from garivini.contrib.django.revisions import migration

Migration = migration(__file__)
