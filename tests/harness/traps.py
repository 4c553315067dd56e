"""What another role can lay in a schema that is open to it, so that the statements of the archive run its code.

A function, an operator, a type or a table that is found by name runs with the rights of the one who asks. PostgreSQL
takes pg_catalog's only where it fits exactly, so each trap here fits better than what pg_catalog has.
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

WORD = "a trap runs"

# The types that the archive's statements have on either side of an operator.
_TYPES = (
    "text", "varchar", "bpchar", "name", '"char"', "int2", "int4", "int8", "float4", "float8", "numeric", "bool",
    "timestamptz", "timestamp", "date", "interval", "jsonb", "json", "bytea", "oid", "regclass", "regtype", "regconfig",
    "tsvector", "tsquery", "text[]", "name[]", "int2[]", "int4[]", "int8[]", "float8[]", "timestamptz[]", "jsonb[]",
    "bytea[]", "oid[]", "bool[]",
)  # fmt: skip
_OPERATORS = (
    "=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "||", "->", "->>", "#>", "#>>", "@>", "<@", "&&", "?",
    "?|", "?&", "@@", "~", "~*", "!~", "!~*", "~~", "!~~", "~~*", "!~~*", "<->", "<=>", "<#>", "^@",
)  # fmt: skip

# One function for each pair of types; an operator that exists with exactly these types is left alone.
_SET = f"""
DO $do$
DECLARE l text; r text; o text; f text; n int4 := 0;
BEGIN
  FOR l IN SELECT c.relname FROM pg_catalog.pg_class c WHERE c.relkind OPERATOR(pg_catalog.=) 'r'::"char"
           AND c.relnamespace OPERATOR(pg_catalog.=) 'public'::pg_catalog.regnamespace::pg_catalog.oid LOOP
    f := pg_catalog.format('trap_of_%%s', l);
    EXECUTE pg_catalog.format('CREATE FUNCTION %%I(%%I, %%I) RETURNS bool LANGUAGE plpgsql AS'
      ' $$ BEGIN RAISE EXCEPTION ''{WORD}: rows of %%s''; END $$', f, l, l, l);
    FOREACH o IN ARRAY ARRAY['=', '<>', '<', '>', '<=', '>='] LOOP
      EXECUTE pg_catalog.format('CREATE OPERATOR %%s (LEFTARG = %%I, RIGHTARG = %%I, FUNCTION = %%I)', o, l, l, f);
    END LOOP;
  END LOOP;
  FOREACH l IN ARRAY %(types)s::text[] LOOP
    FOREACH r IN ARRAY %(types)s::text[] LOOP
      n := n OPERATOR(pg_catalog.+) 1;
      f := pg_catalog.format('trap_%%s', n);
      EXECUTE pg_catalog.format('CREATE FUNCTION %%I(%%s, %%s) RETURNS bool LANGUAGE plpgsql AS'
        ' $$ BEGIN RAISE EXCEPTION ''{WORD}: %%s and %%s''; END $$', f, l, r, l, r);
      FOREACH o IN ARRAY %(operators)s::text[] LOOP
        IF pg_catalog.to_regoperator(pg_catalog.format('pg_catalog.%%s(%%s, %%s)', o, l, r)) IS NULL
           AND pg_catalog.to_regoperator(pg_catalog.format('%%s(%%s, %%s)', o, l, r)) IS NULL THEN
          EXECUTE pg_catalog.format('CREATE OPERATOR %%s (LEFTARG = %%s, RIGHTARG = %%s, FUNCTION = %%I)', o, l, r, f);
        END IF;
      END LOOP;
    END LOOP;
  END LOOP;
END $do$
"""


def set_operators(url: str, *, types: Iterable[str] = _TYPES, operators: Iterable[str] = _OPERATORS) -> int:
    """Lay an operator for each name and each pair of types that pg_catalog has none for; how many there are."""
    with psycopg.connect(url, autocommit=True, options="-c search_path=public") as connection:
        cursor = psycopg.ClientCursor(connection)
        cursor.execute(_SET, {"types": list(types), "operators": list(operators)})
        row = connection.execute(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_operator"
            " WHERE oprnamespace OPERATOR(pg_catalog.=) 'public'::pg_catalog.regnamespace::pg_catalog.oid"
        ).fetchone()
        assert row is not None
        return int(row[0])
