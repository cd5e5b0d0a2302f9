"""The HTTP API: routes by resource, problems, authentication. The only place, with app and cli, that knows aiohttp."""
