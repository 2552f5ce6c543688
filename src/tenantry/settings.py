"""The one settings object: ``tenantry.toml`` in the working directory, then ``TENANTRY_*`` in the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from tenantry.errors import InvalidSettings

CONFIG_FILE = "tenantry.toml"


class Dsn(str):
    """A DSN whose representation is not itself: whatever shows variables does not show its password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<a DSN>"


class Settings(BaseSettings):
    """What a process of Tenantry needs to know; everything else is in the catalog."""

    model_config = SettingsConfigDict(env_prefix="TENANTRY_", toml_file=CONFIG_FILE, extra="forbid", frozen=True)

    catalog: SecretStr = Field(description="DSN of the catalog for the application: a role that only reads.")
    control: SecretStr | None = Field(
        default=None, description="DSN of the catalog for the control plane: only where operators work."
    )
    shared_tables: tuple[str, ...] = Field(
        default=(), description="Tables without the tenant column that all tenants may read (reference data)."
    )
    template: str | None = Field(
        default=None,
        description="Where the application's tables come from: 'sql:FOLDER', 'sqlalchemy:MODULE:METADATA' or "
        "'alembic:FILE'.",
    )
    token_seconds: int = Field(default=60, ge=5, le=600, description="How long a minted token may be used, seconds.")
    pool_size: int = Field(default=10, ge=1, le=1000, description="Connections per database and process.")
    pool_budget: int = Field(default=50, ge=1, description="Connections of this process to all databases together.")
    pooler: bool = Field(
        default=False, description="A transaction-level pooler (PgBouncer) stands between this process and the shards."
    )
    pooler_prepares: bool = Field(
        default=False,
        description="The pooler keeps prepared statements apart: PgBouncer 1.22 or later with max_prepared_statements.",
    )
    cache_size: int = Field(default=50_000, ge=1, description="Tenants that the view of the catalog keeps.")
    stale_seconds: float = Field(
        default=30.0, gt=0, description="How old a cached tenant may be while notifications are lost, seconds."
    )
    replica_wait: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="How long a replica may take to replay what a read must see, seconds; then the primary answers.",
    )
    parameters: dict[str, str] = Field(
        default_factory=dict,
        description="Session parameters of the application's transactions, such as TimeZone: a table in the file, JSON "
        "in the environment.",
    )
    connect_seconds: float = Field(default=5.0, gt=0, description="How long to wait for a server to answer, seconds.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over the environment, the environment over the file."""
        toml = Path(os.environ.get("TENANTRY_CONFIG", CONFIG_FILE))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=toml)

    @property
    def control_dsn(self) -> Dsn:
        """The control plane's DSN of the catalog in clear.

        Raises:
            InvalidSettings: it is not set in this process.
        """
        if self.control is None:
            raise InvalidSettings(
                "setting 'control' is missing",
                where=os.environ.get("TENANTRY_CONFIG", CONFIG_FILE),
                hint="an operator's process needs it: set TENANTRY_CONTROL to the DSN that 'tenantry init' printed",
            )
        return Dsn(self.control.get_secret_value())

    @property
    def catalog_dsn(self) -> Dsn:
        """The catalog's DSN in clear."""
        return Dsn(self.catalog.get_secret_value())


def load(**overrides: Any) -> Settings:
    """The settings of this process.

    Args:
        overrides: values that win over the environment and the file.

    Raises:
        InvalidSettings: a value is missing or wrong; the message names it.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise InvalidSettings(
            f"setting '{name}': {first['msg']}",
            where=os.environ.get("TENANTRY_CONFIG", CONFIG_FILE),
            hint=f"set it there or as TENANTRY_{name.upper()} in the environment; 'tenantry init' writes a first file",
        ) from None
    except ValueError as error:
        raise InvalidSettings(f"{CONFIG_FILE} can't be read: {error}", where=str(Path.cwd())) from None
