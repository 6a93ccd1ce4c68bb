"""The plug-in for vLLM: LoRA adapters by the name of what a question found, merged when they are asked for.

vLLM calls ``register`` in each of its processes (entry point ``vllm.general_plugins``) and, where it is started with
VLLM_ALLOW_RUNTIME_LORA_UPDATING, asks the resolver for every model name that it does not know. Names are what clients
sent: whatever they are, the answer is a request or None, and the reason stands in vLLM's log.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from registry.engines.merges import EngineSettings, Merges, settings_of
from registry.errors import NotFoundError, PragregError, UsageError
from registry.masking import masked, masked_urls

RESOLVER_NAME = "pragreg"
BEFORE_DIGEST = "#"
THREADS = 4
"""Merges side by side; vLLM's loop goes on meanwhile."""

logger = logging.getLogger("vllm.plugins.pragreg")  # under vLLM's own logger, which has the handlers


class CorpusResolver(LoRAResolver):  # type: ignore[misc]  # vLLM is not here when types are checked
    """Resolves ``CORPUS@REF:DOCUMENT,...`` and digests of retrievals to merged adapters of a registry."""

    def __init__(self, settings: EngineSettings) -> None:
        """Open the cache of merged adapters.

        Raises:
            StorageError: it cannot be written.
        """
        self._merges = Merges(settings)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=RESOLVER_NAME)

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return the request for a name, None if there is nothing of that name; never raises.

        The name of a request that was made before is taken too, and gives the same merge or nothing.
        """
        asked, _, digest = lora_name.partition(BEFORE_DIGEST)
        try:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._threads, self._merges.find, base_model_name, asked)
        except (NotFoundError, UsageError) as error:
            logger.info("pragreg: %s", explained(error))
            return None
        except PragregError as error:
            logger.warning("pragreg: %s", explained(error))
            return None
        except Exception as error:
            logger.error(
                "pragreg: a merged adapter could not be made: %s: %s", type(error).__name__, masked(str(error))
            )
            return None
        if found is None or digest not in ("", found.digest):
            return None
        name = request_name(asked, found.digest)
        return LoRARequest(
            lora_name=name,
            lora_int_id=request_id(name),
            lora_path=str(found.path),
            base_model_name=base_model_name,
        )


def request_name(asked: str, digest: str) -> str:
    """Return the name of a request: what was asked for, and the digest of what was merged.

    The digest keeps two versions apart in every cache that goes by the name. The asked name keeps two names of one
    merge apart: vLLM gives each an id, and takes requests of one name in a batch for one.
    """
    return f"{asked}{BEFORE_DIGEST}{digest}"


def request_id(name: str) -> int:
    """Return the integer that goes with a request's name, from 1 to 2**63 - 1: the same in every process."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % (2**63 - 1) + 1


def explained(error: PragregError) -> str:
    """Return an error on one line, with its hint and without passwords."""
    text = f"{error.message} ({error.hint})" if error.hint else error.message
    return " ".join("".join(c if c.isprintable() else " " for c in masked_urls(text)).split())


def register() -> None:
    """Register the resolver with vLLM, if ``PRAGREG_HOME`` names a registry; called once in each process.

    Raises:
        ValueError: a variable is wrong, so that vLLM does not start; the message says which.
    """
    try:
        settings = settings_of(os.environ)
        if settings is not None:
            LoRAResolverRegistry.register_resolver(RESOLVER_NAME, CorpusResolver(settings))
    except PragregError as error:
        raise ValueError(f"pragreg: {explained(error)}") from error
