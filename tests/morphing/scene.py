"""The morph's graph in prompts for the tests' host: key pictures of a tiny model, and what is made of them."""

from ..host.prompts import Scene

STEPS = 6


class Morph(Scene):
    """Two or more key pictures of a tiny model, and what is made of them."""

    def __init__(self, family="sd1", pictures=2, **options):
        super().__init__(family, batch=pictures, **options)
        self.family, self.pictures = family, pictures
        self.prompts = [[self.add("TestTinyConditioning", family=family, seed=s, batch=1), 0] for s in range(pictures)]

    def numbered(self, names, name, links):
        return {f"{names}.{name}{place}": link for place, link in enumerate(links)}

    def fit(self, **options):
        settings = {"steps": STEPS, "rank": 2, "learning_rate": 0.005, "seed": 0} | options
        prompts = self.numbered("prompts", "prompt", self.prompts)
        return self.add("PalimpsestLoRAFit", model=self.model, latent=self.latent, **settings, **prompts)

    def schedule(self, frames, **options):
        settings = {"pace": "uniform", "cyclic": False} | options
        return self.add("PalimpsestMorphSchedule", frames=frames, keyframes=self.pictures, **settings)

    def mixed(self, model, loras, alphas, **options):
        settings = {"mixing": "product", "strength": 1.0} | options
        loras = self.numbered("loras", "lora", loras)
        return [self.add("PalimpsestLoRAInterpolator", model=model, alphas=alphas, **settings, **loras), 0]

    def texts(self, alphas):
        prompts = self.numbered("prompts", "prompt", self.prompts)
        return [self.add("PalimpsestMorphConditioning", alphas=alphas, **prompts), 0]

    def inverted(self, model, positive):
        node = self.add(
            "PalimpsestDDIMInvert",
            model=model,
            latent=self.latent,
            sigmas=self.sigmas,
            cfg=1.0,
            refinement=0,
            positive=positive,
        )
        return [node, 0]

    def sampled(self, model, positive, starts):
        guider = self.add("BasicGuider", model=model, conditioning=positive)
        sampler = self.add("KSamplerSelect", sampler_name="euler")
        node = self.add(
            "SamplerCustomAdvanced",
            noise=[starts, 0],
            guider=[guider, 0],
            sampler=[sampler, 0],
            sigmas=self.sigmas,
            latent_image=[starts, 1],
        )
        return [node, 0]

    def started(self, model, trajectories, alphas):
        """The node that gives the frames their noise, their latent and the key pictures."""
        trajectories = self.numbered("trajectories", "trajectory", [trajectories])
        return self.add("PalimpsestMorphLatents", model=model, alphas=alphas, adain=True, **trajectories)

    def prepared(self, schedule):
        """The LoRAs, and the key pictures inverted with them."""
        loras, keys = [[self.fit(), 0]], [schedule, 1]
        return loras, self.inverted(self.mixed(self.model, loras, keys), self.texts(keys))

    def whole(self, frames=5, blend=True, **options):
        """The paper's graph; returns the frames' latent and their ALPHAS."""
        schedule = self.schedule(frames, **options)
        loras, trajectories = self.prepared(schedule)
        alphas = [schedule, 0]
        model = self.mixed(self.model, loras, alphas)
        starts = self.started(model, trajectories, alphas)
        if blend:
            blended = self.add(
                "PalimpsestAttentionBlend", model=model, alphas=alphas, strength=1.0, until=0.6, keys=[starts, 2]
            )
            model = [blended, 0]
        return self.sampled(model, self.texts(alphas), starts), alphas

    def alone(self, key, frames=5):
        """Key picture `key` by itself, from its own noise, with its own LoRA and its prompt as it came; its latent."""
        place = key * (frames - 1) // (self.pictures - 1)
        schedule = self.schedule(frames, start=place, count=1)
        loras, trajectories = self.prepared(schedule)
        fixed = {"mixture": "one for all frames", "fixed_alpha": float(key)}
        model = self.mixed(self.model, loras, [schedule, 0], **fixed)
        return self.sampled(model, self.prompts[key], self.started(model, trajectories, [schedule, 0]))


def refusal(client, scene):
    """The error message with which a prompt must fail."""
    result = client.run(scene.nodes)
    assert result.status == "error"
    return result.error
