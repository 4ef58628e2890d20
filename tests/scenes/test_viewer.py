"""The page that shows a scene: what it holds, and, where Chromium is installed, what it draws and how it is turned."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genbench.errors import SceneError
from genbench.scenes.cameras import orbit
from genbench.scenes.gaussians import Gaussians
from genbench.scenes.rendering import engine
from genbench.scenes.splat import prominence, splat_bytes
from genbench.scenes.viewer import page, write_viewer
from genbench.scenes.views import Stand, framing
from tests.scenes import models

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
SIZE = 128
STANDS = ((10.0, 15.0), (50.0, 30.0), (130.0, -40.0), (265.0, 70.0))
"""(azimuth_deg, elevation_deg)"""


def held(text: str) -> dict[str, Any]:
    found = re.search(r'<script id="scene" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


# --- what the page holds ------------------------------------------------------------------------------------------


def test_a_page_needs_nothing_else(work: Path) -> None:
    write_viewer(Path("viewer.html"), models.scene(1), "a ball")
    text = Path("viewer.html").read_text()
    assert not re.search(r"https?:|//cdn|src=|href=|import |fetch\(|XMLHttpRequest|@import|url\(", text)
    assert "{{" not in text


def test_it_holds_the_bytes_of_a_splat_file_and_the_harmonics() -> None:
    scene = models.scene(2)
    inside = held(page(scene))
    assert base64.b64decode(inside["splats"]) == splat_bytes(scene)
    shown = scene.rows(prominence(scene).argsort(descending=True, stable=True))
    numbers = torch.tensor(list(base64.b64decode(inside["harmonics"]))).reshape(-1, 8, 3)
    assert ((numbers / 127.5 - 1) * inside["span"] - shown.sh_rest).abs().max() <= inside["span"] / 255 + 1e-6
    assert inside["rest"] == 8


def test_of_too_many_the_most_visible_are_shown_and_the_page_says_so() -> None:
    scene = models.scene()
    text = page(scene, limit=100)
    assert len(base64.b64decode(held(text)["splats"])) == 3200
    assert f"the 100 most visible of {len(scene)} Gaussians" in text


def test_a_prompt_cannot_break_the_page() -> None:
    title = "a </script><script>alert(1)</script> {{scene}} & \"more\" 'words'"
    text = page(models.scene(), title)
    assert "<script>alert" not in text and html.escape(title) in text


def test_without_a_stand_the_whole_scene_is_seen() -> None:
    ball = models.sphere(radius=3.0)
    ball.means[:] += torch.tensor([5.0, 0.0, 1.0])
    inside = held(page(ball))
    assert inside["centre"] == pytest.approx([5, 0, 1], abs=0.2)
    cameras = orbit(15, 0, inside["camera_distance"], inside["fovy_deg"], 32, 32, inside["centre"])
    alpha = engine("torch")(ball, cameras, torch.ones(3)).alpha[0, 0]
    edge = torch.cat([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
    assert edge.max() < 0.05 and alpha.mean() > 0.4


def test_lone_far_gaussians_do_not_set_the_distance() -> None:
    ball = models.sphere(400)
    far = models.of(torch.tensor([[100.0, 0, 0]]), torch.ones(1, 3), 1e-3)
    own = framing(ball).camera_distance
    assert framing(models.join(ball, far)).camera_distance == pytest.approx(own, rel=0.1)
    assert framing(far).camera_distance > 0


def test_what_cannot_be_drawn_leaves_the_old_page(work: Path) -> None:
    write_viewer(Path("viewer.html"), models.scene())
    before = Path("viewer.html").read_bytes()
    with pytest.raises(SceneError, match="no Gaussian is left"):
        write_viewer(Path("viewer.html"), models.scene().rows(torch.zeros(872, dtype=torch.bool)))
    assert Path("viewer.html").read_bytes() == before


# --- what it draws ------------------------------------------------------------------------------------------------


def browse(file: Path, *words: str, mark: str = "") -> str:
    """Open a page without a window and without a network; what Chromium prints."""
    assert BROWSER is not None
    own = file.parent / "profile"
    flags = [
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--use-angle=swiftshader",
        "--hide-scrollbars",
    ]
    flags += ["--enable-unsafe-swiftshader", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"]
    flags += ["--force-device-scale-factor=1", "--virtual-time-budget=3000", f"--user-data-dir={own}", *words]
    done = subprocess.run([BROWSER, *flags, f"{file.as_uri()}#{mark}"], capture_output=True, text=True, timeout=200)
    return done.stdout


def told(work: Path, scene: Gaussians, script: str) -> Any:
    """What a script that is put at the end of a scene's page answers, by `answer(value)`."""
    text = page(scene, stand=Stand(), spin=False)
    say = 'const answer = value => { document.title = "answer" + JSON.stringify(value) + "end"; };'
    # A canvas of a known size: headless windows have a least width.
    size = f"canvas.style.width = canvas.style.height = '{SIZE}px';"
    file = work.resolve() / "viewer.html"
    file.write_text(text + f"<script>{size}{say}{script}</script>")
    found = re.search(r"<title>answer(.*?)end</title>", browse(file, "--dump-dom", mark="plain=1"), re.DOTALL)
    assert found is not None
    return json.loads(html.unescape(found[1]))


LOOK = """
answer(%s.map(([azimuth, elevation]) => {
  Object.assign(view, { azimuth, elevation });
  draw();
  const pixels = new Uint8Array(4 * canvas.width * canvas.height);
  gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  return Array.from(pixels);
}));
"""


@needs_browser
@pytest.mark.parametrize("degree", [0, 3])
def test_it_draws_what_the_renderer_draws(work: Path, degree: int) -> None:
    scene = models.scene(degree)
    seen = told(work, scene, LOOK % json.dumps(STANDS))
    azimuth, elevation = torch.tensor(STANDS).T
    for row, pixels in enumerate(seen):
        got = np.array(pixels).reshape(SIZE, SIZE, 4)[::-1, :, :3] / 255
        cameras = orbit(elevation[row], azimuth[row], 3.5, 35, SIZE, SIZE)
        want = engine("torch")(scene, cameras, torch.ones(3)).rgb[0].clamp(0, 1).permute(1, 2, 0).numpy()
        assert np.abs(got - want).mean() < 0.002 and (np.abs(got - want) > 0.03).mean() < 0.002
        assert np.abs(got[:, ::-1] - want).mean() > 0.02 < np.abs(got[::-1] - want).mean()


@needs_browser
def test_a_screenshot_shows_up_above_and_right_on_the_right(work: Path) -> None:
    write_viewer(Path("viewer.html"), models.scene(), "a ball", Stand(), background=(0.0, 0.0, 0.0), spin=False)
    file = work.resolve() / "viewer.html"
    browse(file, f"--screenshot={work.resolve() / 'shot.png'}", "--window-size=600,600", mark="plain=1")
    shot = np.asarray(Image.open("shot.png").convert("RGB")).astype(float) / 255
    height, width, _ = shot.shape
    places = np.argwhere((shot[..., 0] > 0.7) & (shot[..., 1:].max(2) < 0.3))
    assert len(places) > 100 and places[:, 1].min() > width / 2  # red points to the right
    places = np.argwhere((shot[..., 1] > 0.5) & (shot[..., [0, 2]].max(2) < 0.3))
    assert len(places) > 100 and places[:, 0].min() > height / 2  # green points down
    assert shot[0, 0].max() == 0  # the background


HANDS = """
const told = {};
const tell = name => { told[name] = { ...view, centre: [...view.centre], spinning, ground }; };
const send = (kind, words) => canvas.dispatchEvent(new PointerEvent(kind, words));
canvas.setPointerCapture = () => {};
const drag = (button, pointerId = 1) => {
  send("pointerdown", { pointerId, clientX: 100, clientY: 100, button });
  send("pointermove", { pointerId, clientX: 150, clientY: 120 });
};
tell("start");
drag(0); tell("drag");
send("pointerdown", { pointerId: 2, clientX: 200, clientY: 120 });
send("pointermove", { pointerId: 2, clientX: 250, clientY: 120 }); tell("pinch");
send("pointerup", { pointerId: 1 }); send("pointerup", { pointerId: 2 });
canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 100, cancelable: true })); tell("wheel");
dispatchEvent(new KeyboardEvent("keydown", { key: "r" })); tell("reset");
drag(2); tell("pan"); send("pointerup", { pointerId: 1 });
for (const key of ["ArrowLeft", "ArrowUp", "+", " ", "b"]) {
  dispatchEvent(new KeyboardEvent("keydown", { key })); tell(key);
}
document.getElementById("spin").click(); tell("button");
answer(told);
"""


@needs_browser
def test_mouse_touch_wheel_and_keys_turn_it(work: Path) -> None:
    told_of = told(work, models.scene(), HANDS)
    start, drag, pinch, wheel = (told_of[name] for name in ("start", "drag", "pinch", "wheel"))
    assert (start["azimuth"], start["elevation"], start["distance"]) == (0, 15, 3.5)
    assert drag["azimuth"] < 0 and drag["elevation"] > 15  # the scene follows the hand
    assert pinch["distance"] == pytest.approx(1.75) and wheel["distance"] > pinch["distance"]
    assert told_of["reset"] == start
    assert told_of["pan"]["centre"][0] < 0 and told_of["pan"]["centre"][1] < 0
    assert told_of["ArrowLeft"]["azimuth"] > 0 and told_of["ArrowUp"]["elevation"] < 15
    assert told_of["+"]["distance"] < 3.5 and told_of[" "]["spinning"] and told_of["b"]["ground"] == 1
    assert not told_of["button"]["spinning"]
