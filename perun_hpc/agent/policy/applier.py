"""What the policy rules as soon as it is known: the agent's place, the hooks' deadline, the settings of each job."""

from __future__ import annotations

import contextlib
import os
import pwd
from functools import partial

from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.policy import limits
from perun_hpc.agent.sources.root_helper import RootHelper
from perun_hpc.config import settings as kept
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.process.log import guard, log


class PolicyApplier:
    """Applies a policy that is settled."""

    def __init__(self, policy: PolicyKeeper, register: Register, root_helper: RootHelper) -> None:
        self._policy = policy
        self._register = register
        self._root_helper = root_helper
        self._told: str | None = None
        self._named: str | None = None

    def apply(self) -> None:
        """Rule this process and the hooks; sessions that have no settings yet get theirs."""
        if self._policy.refused != self._told:
            self._told = self._policy.refused
            if self._told:
                log(f"policy: {self._told}; the last valid one stays in force")
        site = self._policy.site()
        self._look_at_user(site.agent.service_user)
        limits.step_back(site.agent)
        self._root_helper.deadline(site.hooks.deadline_ns // 1_000_000)
        for session in (*self._register.live.values(), *self._register.ended):
            if not session.settings:
                guard("its settings", partial(self.freeze, session), session)

    def _look_at_user(self, named: str) -> None:
        """Say it once where the policy names another service user than the one that the spool was given to."""
        uid = os.geteuid()
        if uid == 0 or named == self._named:
            return
        self._named = named
        with contextlib.suppress(KeyError):
            if pwd.getpwnam(named).pw_uid != uid:
                log(f"policy: agent.service_user is {named}, but the agent runs as the spool's owner, uid {uid}")

    def freeze(self, session: Session) -> None:
        """Give a session its settings for good, and what it and its flagged steps asked for within them."""
        settings = self._policy.settings(session.job, self._register.name_of_node(session), session.flag)
        monitored = settings.monitors(flagged=session.flag is not None)
        session.settle(settings.to_json(), monitored, settings.policy_hash)
        for options in dict.fromkeys(step.options for step in session.steps.values()):
            self.flag(session, options)

    def flag(self, session: Session, options: str) -> None:
        """A step was flagged: its options count within the job's settings, as soon as it has any."""
        from perun_hpc.config.resolve import monitors, with_options

        if session.settings:
            settings = with_options(session.settings, options)
            session.flag_step(settings, monitors(kept.monitor(settings).jobs, flagged=True))

    def refused_options(self, session: Session, options: str) -> list[str]:
        """Why options of the user's flag do not count; nothing while the job has no settings."""
        from perun_hpc.config.resolve import with_options

        return list(with_options(session.settings, options)["notes"]) if session.settings else []
