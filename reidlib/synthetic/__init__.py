"""The embedded default data set: rendered people, written once in Market-1501's layout.

    root/bounding_box_train/0001_c1s1_000101_00.jpg   training identities
    root/query/…                                      one image per test identity and camera
    root/bounding_box_test/…                          other test images, distractors (0000), junk (-1)
    root/synthetic.json                               the specification, and the digest of the drawing code

Identities come in colour groups. The members of a group wear the same two colours and differ in pattern, cut,
bag, hat, hair and build, so that a colour histogram confuses them. Cameras differ in scenery, colour cast,
exposure, blur, resolution and angle. The same specification gives the same pixels for any number of workers,
because every image draws from its own seed sequence.

`spec` says what is rendered, `views` draws people, cameras and views, `figure` (with `person` and `tubes`)
draws one figure, `scenery` its surroundings, and `folder` writes the images. `masks` says where in an image
the person is; `attributes` says which side is seen, what stands in front, how the box lies and who is dressed
alike.
"""

from reidlib.synthetic.folder import ensure_synthetic
from reidlib.synthetic.masks import masks_of, render_masks
from reidlib.synthetic.spec import SyntheticError, SyntheticSpec, plan_images
from reidlib.synthetic.views import Camera, View, describe_person, draw_camera, draw_person, render_person

__all__ = [
    "Camera", "SyntheticError", "SyntheticSpec", "View", "describe_person", "draw_camera", "draw_person",
    "ensure_synthetic", "masks_of", "plan_images", "render_masks", "render_person",
]  # fmt: skip
