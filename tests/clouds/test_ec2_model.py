"""What is kept of the vendor's model: all that our requests need, and nothing that they don't."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.awsrequest import prepare_request_dict
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.serialize import create_serializer

from precip_async.clouds.dialects import ACTIONS, DIALECTS
from precip_async.clouds.ec2_model import Models


def model_of(loader: Loader) -> dict[str, Any]:
    """EC2, as a loader has it."""
    return dict(loader.load_service_model("ec2", "service-2"))


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """All of it."""
    return model_of(Loader())


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """What we keep."""
    return model_of(Models(ACTIONS))


def sent(model: dict[str, Any], action: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The body of a request, as the vendor writes it."""
    service = ServiceModel(model, "ec2")
    serializer = create_serializer(service.protocol, include_validation=True)
    request = serializer.serialize_to_request(parameters, service.operation_model(action))
    prepare_request_dict(request, endpoint_url="https://ec2.invalid")
    return dict(request["body"])


def test_every_action_of_every_dialect_is_kept(kept: dict[str, Any]) -> None:
    """And no other."""
    assert kept["operations"].keys() == ACTIONS
    assert {"RunInstances", "DescribeInstances"} < ACTIONS


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_every_parameter_of_a_dialect_is_known(kept: dict[str, Any], dialect: Any) -> None:
    """With all that it is made of: the vendor can look up each shape that is named."""
    service = ServiceModel(kept, "ec2")
    for action, parameters in dialect.accepts.items():
        shape = service.operation_model(action).input_shape
        assert shape is not None
        assert parameters <= shape.members.keys()

    for name in kept["shapes"]:
        shape_of_it: Any = service.shape_for(name)
        for part in getattr(shape_of_it, "members", {}).values():
            assert part.name in kept["shapes"]


def test_a_launch_is_written_as_by_the_whole_model(
    kept: dict[str, Any], whole: dict[str, Any]
) -> None:
    """Nested lists and structures included."""
    launch = {
        "ImageId": "ami-1",
        "MinCount": 1,
        "MaxCount": 2,
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 9}}],
        "NetworkInterfaces": [{"DeviceIndex": 0, "Groups": ["sg-1"], "SubnetId": "subnet-1"}],
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "k", "Value": "v"}]}],
        "InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.1"}},
    }

    assert sent(kept, "RunInstances", launch) == sent(whole, "RunInstances", launch)


def test_most_of_the_model_is_left_behind(kept: dict[str, Any], whole: dict[str, Any]) -> None:
    """Also in the loader, which keeps whatever it has read."""
    loader = Models(ACTIONS)
    loader.load_service_model("ec2", "service-2")

    assert len(kept["shapes"]) < len(whole["shapes"]) / 10
    assert "CreateTransitGateway" not in repr(vars(loader))


def test_other_files_are_read_as_they_are() -> None:
    """Endpoints and paginators are not models of actions."""
    assert Models(()).load_service_model("ec2", "paginators-1") == Loader().load_service_model(
        "ec2", "paginators-1"
    )
