"""vkteams-daemon: keeps every event of VK Teams chats in PostgreSQL and makes them searchable."""

__version__ = "0.1.0"
