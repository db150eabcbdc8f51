"""The skeleton of a model has the shapes of the loaded one."""

from adapad_ray.models import backbone_parameters, load_skeleton


def test_the_skeleton_has_every_shape_and_no_weights(minilm):
    skeleton = load_skeleton("minilm-l6", 2)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert backbone_parameters(skeleton) == minilm.parameters
    expected = {name: parameter.shape for name, parameter in minilm.model.named_parameters()}
    assert {name: parameter.shape for name, parameter in skeleton.named_parameters()} == expected
