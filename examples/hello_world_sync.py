"""The manual's Hello World of 2012: only its import, its constructor and its `print` are new."""

# ruff: noqa: F403, F405, T203, UP031 - it is left as it was

from __future__ import annotations

from pprint import pprint

from precip_async.sync import *

exp = None

# Use try/except liberally in your experiments - the api is set up to
# raise ExperimentException on most errors
try:
    # Create a new experiment on this computer
    exp = LocalExperiment()

    # Provision an instance based on the ami-0000004c. Note that tags are
    # used throughout the api to identify and manipulate instances. You
    # can give an instance an arbitrary number of tags.
    exp.provision("ami-0000004c", tags=["test1"], count=1)

    # Wait for all instances to boot and become accessible.
    exp.wait()

    # Print out the details of the instance. The details include instance id,
    # private and public hostnames, and tags both defined by you and some
    # added by the api
    pprint(exp.list())

    # Run a command on the instances having the "test1" tag.
    exp.run(["test1"], "echo 'Hello world from a experiment instance'")
except ExperimentException as e:
    # This is the default exception for most errors in the api
    print("ERROR: %s" % e)
finally:
    # Be sure to always deprovision the instances we have started.
    if exp is not None:
        exp.deprovision()
