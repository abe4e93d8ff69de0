"""Settings of the project; the database and the server come from the environment."""

import os
from typing import Any

import django
from sqlalchemy import make_url

url = make_url(os.environ["PROJECT_DB"])
if url.drivername == "mysql":
    import pymysql

    pymysql.install_as_MySQLdb()
DATABASES: dict[str, Any] = {
    "default": {
        "ENGINE": f"django.db.backends.{'sqlite3' if url.drivername == 'sqlite' else url.drivername}",
        "NAME": url.database,
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "HOST": url.host or "",
        "PORT": url.port or "",
    }
}
GARIVINI = {"JOB_SERVERS": os.environ.get("PROJECT_SERVERS", "").split() or None}
TASKS: dict[str, Any] = {
    "default": {
        "BACKEND": os.environ.get("PROJECT_BACKEND", "garivini.contrib.django.backend.GariviniBackend"),
        "QUEUES": ["default", "mail"],
    }
}
if "GariviniBackend" in TASKS["default"]["BACKEND"]:
    TASKS["default"]["OPTIONS"] = {"RULES": {"tests.contrib.project.tasks.fails": {"max_attempts": 1}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["garivini.contrib.django", "tests.contrib.project"]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")
SECRET_KEY = "x"
USE_TZ = True
