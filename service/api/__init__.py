"""The REST interface: `create_app(settings)` in `service.api.app`."""
