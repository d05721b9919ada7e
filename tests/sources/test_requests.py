"""Every route and request field of a release is classified: a new one fails here until somebody has looked at it.

Routes are read from what vLLM's entry points give to their routers, fields from the request models of the routes whose
bodies are looked into. ``tests/vllm`` holds the same lists against a running application.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detinf.engines.catalogue import PROFILES
from detinf.engines.profile import Profile

sys.path.insert(0, str(Path(__file__).resolve().parent))

from test_profiles import PACKAGES, each_profile, folder_of

METHODS = {"get": "GET", "post": "POST", "put": "PUT", "patch": "PATCH", "delete": "DELETE", "websocket": "WEBSOCKET"}
OTHER_SERVERS = ("dp_supervisor.py", "preload.py", "vllm/entrypoints/api_server.py")
"""Servers of other commands and roles, none of which a replica runs."""
OF_FASTAPI = {"GET /openapi.json", "GET /docs", "GET /docs/oauth2-redirect", "GET /redoc"}
MODELS = {
    "POST /v1/completions": ("CompletionRequest",),
    "POST /v1/chat/completions": ("ChatCompletionRequest",),
    "POST /tokenize": ("TokenizeCompletionRequest", "TokenizeChatRequest"),
    "POST /detokenize": ("DetokenizeRequest",),
}


def calls(module: ast.Module) -> Iterator[ast.Call]:
    return (node for node in ast.walk(module) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))


def routes_of(module: ast.Module, place: str) -> Iterator[str]:
    """Yield what a module gives to a router; a path that is not written there fails, unless another router has it."""
    for call in calls(module):
        assert isinstance(call.func, ast.Attribute)
        owner, name = ast.unparse(call.func.value), call.func.attr
        if not (owner == "app" or owner.endswith("router")):
            continue
        paths = [*call.args[:1], *(item.value for item in call.keywords if item.arg == "path")]
        path = str(paths[0].value) if paths and isinstance(paths[0], ast.Constant) else None
        if name in METHODS and paths:
            if path is None:
                assert ast.unparse(paths[0]) == "app.swagger_ui_oauth2_redirect_url", f"{place}: {ast.unparse(call)}"
                continue
            yield f"{METHODS[name]} {path}"
        elif name == "mount":
            yield f"GET {path}/{{path:path}}"
        elif name in {"add_api_route", "api_route", "add_route", "route"}:
            if path is None:  # those of routers that are here, again
                assert ast.unparse(paths[0]) == "route.path", f"{place}: {ast.unparse(call)}"
                continue
            methods = next(item.value for item in call.keywords if item.arg == "methods")
            yield from (f"{method} {path}" for method in ast.literal_eval(methods))
        else:
            assert not name.startswith("add_") or name in {"add_middleware", "add_exception_handler"}, (
                f"{place}: {name}"
            )


@functools.cache
def modules(folder: Path) -> dict[str, ast.Module]:
    """Return the modules of vLLM's entry points by their path."""
    paths = sorted((folder / "vllm/entrypoints").rglob("*.py"))
    return {str(path.relative_to(folder)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def routes(folder: Path) -> set[str]:
    """Return the routes that a release has."""
    found = set(OF_FASTAPI)
    for place, module in modules(folder).items():
        if not place.endswith(OTHER_SERVERS):
            found |= set(routes_of(module, place))
    return found | {"GET /metrics"}  # mounted, and exposed by its instrumentator


def fields(folder: Path, name: str) -> set[str]:
    """Return the fields of a request model, its parents' among them."""
    classes = {
        item.name: item for module in modules(folder).values() for item in module.body if isinstance(item, ast.ClassDef)
    }

    def own(item: ast.ClassDef) -> Iterator[str]:
        for base in item.bases:
            parent = classes.get(ast.unparse(base).partition("[")[0].rpartition(".")[2])
            if parent is not None:
                yield from own(parent)
        for line in item.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                value = ast.unparse(line.value) if line.value else ""
                assert "alias" not in value, f"{name}.{line.target.id} has another name in a body; classify that, too"
                if not line.target.id.startswith("_") and "ClassVar" not in ast.unparse(line.annotation):
                    yield line.target.id

    return set(own(classes[name]))


def known_fields(profile: Profile, route: str) -> set[str]:
    return {name for rule in profile.request_fields if route in rule.routes for name in rule.names}


def known_routes(profile: Profile) -> set[str]:
    return {name for rule in profile.routes for name in rule.names}


@each_profile
def test_every_route_of_the_release_is_classified(profile: Profile) -> None:
    found = routes(folder_of(profile, "vllm"))
    assert len(found) > 50
    assert sorted(found - known_routes(profile)) == []


@pytest.mark.parametrize("route", MODELS)
@each_profile
def test_every_field_of_the_release_is_classified(profile: Profile, route: str) -> None:
    for model in MODELS[route]:
        found = fields(folder_of(profile, "vllm"), model)
        assert len(found) >= 2
        assert sorted(found - known_fields(profile, route)) == [], model


@each_profile
def test_fields_of_openai_that_are_said_to_be_ignored_are_no_fields_of_the_release(profile: Profile) -> None:
    (ignored,) = (rule.names for rule in profile.request_fields if "store" in rule.names)
    for model in ("CompletionRequest", "ChatCompletionRequest"):
        assert fields(folder_of(profile, "vllm"), model) & set(ignored) == set()


def test_every_route_whose_body_is_looked_into_has_a_model() -> None:
    for profile in PROFILES.values():
        assert {route for rule in profile.request_fields for route in rule.routes} == set(MODELS)
        assert {name for rule in profile.routes if rule.kind == "Promised" for name in rule.names} <= set(MODELS)


def test_nothing_is_classified_twice() -> None:
    for profile in PROFILES.values():
        listed = [name for rule in profile.routes for name in rule.names]
        assert sorted(listed) == sorted(set(listed))
        for route in MODELS:
            of_route = [name for rule in profile.request_fields if route in rule.routes for name in rule.names]
            assert sorted(of_route) == sorted(set(of_route))


def test_a_route_that_nobody_classified_is_found() -> None:
    module = ast.parse("@router.post('/v1/new')\nasync def new(): ...\nrouter.add_api_route('/x', f, methods=['PUT'])")
    assert set(routes_of(module, "here")) == {"POST /v1/new", "PUT /x"}
    with pytest.raises(AssertionError, match="here"):
        set(routes_of(ast.parse("router.post(PATH)(new)"), "here"))


def test_packages_are_those_of_the_profiles() -> None:
    assert set(PACKAGES) <= set(PROFILES)
