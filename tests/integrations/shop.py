"""The tables of the test houses as an application maps them. It is written as for one customer: no tenant in sight,
except for the column."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Identity, Numeric, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Country(Base):
    __tablename__ = "countries"

    code: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)


class Customer(Base):
    __tablename__ = "customers"

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    email: Mapped[str] = mapped_column(Text)
    country: Mapped[str | None] = mapped_column(ForeignKey(Country.code))

    orders: Mapped[list[Order]] = relationship(back_populates="customer", order_by="Order.id")
    land: Mapped[Country | None] = relationship()


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "customer_id"], ["customers.tenant_id", "customers.id"]),)

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    customer_id: Mapped[int | None] = mapped_column(BigInteger)
    note: Mapped[str] = mapped_column(Text, server_default="")
    amount: Mapped[float] = mapped_column(Numeric(asdecimal=False), server_default="0")

    customer: Mapped[Customer | None] = relationship(back_populates="orders")
