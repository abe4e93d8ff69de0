"""Django's registration of the application ``garivini``."""

from django.apps import AppConfig
from django.core import checks


class GariviniConfig(AppConfig):
    """The application that ``INSTALLED_APPS`` names as ``garivini.contrib.django``."""

    name: str = "garivini.contrib.django"
    label: str = "garivini"
    verbose_name: str = "Garivini"

    def ready(self) -> None:
        """Register the system checks."""
        from garivini.contrib.django.checks import check_database

        checks.register(check_database)
