"""The public interface of every node, which shared workflow files depend on.

Names, order and types never change their meaning once they are out. New inputs come last and are
optional. "name TYPE" is an input or output; "name? TYPE" an input that may be left unconnected.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contract:
    """What a node is called, takes and gives."""

    display_name: str
    inputs: list[str]
    outputs: list[str]

    @classmethod
    def of(cls, schema):
        """That of a node as it is now."""
        inputs = [
            f"{one.id}{'?' if one.optional else ''} {one.get_io_type()}" for one in schema.inputs
        ]
        outputs = [f"{one.id} {one.get_io_type()}" for one in schema.outputs]
        return cls(schema.display_name, inputs, outputs)


CONTRACTS = {
    "NMGInvert": Contract(
        "NMG Invert",
        [
            "model MODEL",
            "positive CONDITIONING",
            "latent_image LATENT",
            "steps INT",
            "schedule COMBO",
            "sigmas? SIGMAS",
            "regularize? INT",
            "seed? INT",
            "refine_iterations? INT",
        ],
        [
            "trajectory NMG_TRAJECTORY",
            "latent LATENT",
        ],
    ),
    "NMGSample": Contract(
        "NMG Sample",
        [
            "model MODEL",
            "trajectory NMG_TRAJECTORY",
            "positive CONDITIONING",
            "negative CONDITIONING",
            "text_scale FLOAT",
            "noise_map_scale FLOAT",
            "gradient_scale FLOAT",
            "mode COMBO",
            "guidance? NMG_GUIDANCE",
            "editor? NMG_EDITOR",
            "mask? MASK",
        ],
        [
            "latent LATENT",
            "source LATENT",
        ],
    ),
    "NMGGuider": Contract(
        "NMG Guider",
        [
            "model MODEL",
            "trajectory NMG_TRAJECTORY",
            "positive CONDITIONING",
            "negative CONDITIONING",
            "text_scale FLOAT",
            "noise_map_scale FLOAT",
            "gradient_scale FLOAT",
            "mode COMBO",
            "guidance? NMG_GUIDANCE",
            "editor? NMG_EDITOR",
            "mask? MASK",
        ],
        [
            "guider GUIDER",
        ],
    ),
    "NMGSampler": Contract(
        "NMG Sampler",
        [
            "trajectory NMG_TRAJECTORY",
        ],
        [
            "sampler SAMPLER",
            "sigmas SIGMAS",
        ],
    ),
    "NMGGuidance": Contract(
        "NMG Guidance",
        [
            "mode COMBO",
            "gradient COMBO",
            "loss COMBO",
            "reference COMBO",
            "noise_map_scale FLOAT",
            "gradient_scale FLOAT",
            "start FLOAT",
            "end FLOAT",
            "inside? FLOAT",
            "outside? FLOAT",
            "every? INT",
            "falloff? FLOAT",
            "blend? FLOAT",
        ],
        [
            "guidance NMG_GUIDANCE",
        ],
    ),
    "NMGPlainGuidance": Contract(
        "DDIM + CFG",
        [],
        [
            "guidance NMG_GUIDANCE",
        ],
    ),
    "NMGNullText": Contract(
        "Null-Text Inversion",
        [
            "model MODEL",
            "trajectory NMG_TRAJECTORY",
            "negative CONDITIONING",
            "text_scale FLOAT",
            "inner_steps INT",
            "learning_rate FLOAT",
            "early_stop? FLOAT",
        ],
        [
            "guidance NMG_GUIDANCE",
            "trajectory NMG_TRAJECTORY",
        ],
    ),
    "NMGNegativePrompt": Contract(
        "Negative-Prompt Inversion",
        [
            "interpolation FLOAT",
        ],
        [
            "guidance NMG_GUIDANCE",
        ],
    ),
    "NMGProximal": Contract(
        "Proximal Guidance",
        [
            "threshold COMBO",
            "quantile FLOAT",
            "value? FLOAT",
            "recon_strength? FLOAT",
            "recon_start? FLOAT",
            "dilate? INT",
            "interpolation? FLOAT",
        ],
        [
            "guidance NMG_GUIDANCE",
        ],
    ),
    "NMGDirectInversion": Contract(
        "Direct Inversion",
        [
            "strength FLOAT",
            "every? INT",
        ],
        [
            "guidance NMG_GUIDANCE",
        ],
    ),
    "NMGEditFriendly": Contract(
        "Edit-Friendly Inversion",
        [
            "model MODEL",
            "positive CONDITIONING",
            "negative CONDITIONING",
            "latent_image LATENT",
            "steps INT",
            "schedule COMBO",
            "source_scale FLOAT",
            "skip INT",
            "seed INT",
        ],
        [
            "guidance NMG_GUIDANCE",
            "trajectory NMG_TRAJECTORY",
        ],
    ),
    "NMGPromptToPrompt": Contract(
        "Prompt-to-Prompt",
        [
            "clip? CLIP",
            "source_prompt STRING",
            "target_prompt STRING",
            "mode COMBO",
            "cross_replace FLOAT",
            "self_replace FLOAT",
            "blend_words STRING",
            "reweight STRING",
            "word_schedules? STRING",
            "blend_threshold? FLOAT",
            "blend_start? FLOAT",
        ],
        [
            "editor NMG_EDITOR",
            "alignment STRING",
        ],
    ),
    "NMGMasaCtrl": Contract(
        "MasaCtrl",
        [
            "start_step INT",
            "start_layer INT",
            "source_mask? MASK",
            "target_mask? MASK",
            "counting? COMBO",
            "clip? CLIP",
            "source_prompt? STRING",
            "target_prompt? STRING",
            "mask_words? STRING",
            "mask_threshold? FLOAT",
        ],
        [
            "editor NMG_EDITOR",
        ],
    ),
    "NMGPix2PixZero": Contract(
        "pix2pix-zero",
        [
            "attention_scale FLOAT",
            "halves? COMBO",
            "start? FLOAT",
            "end? FLOAT",
        ],
        [
            "editor NMG_EDITOR",
        ],
    ),
    "NMGEditDirection": Contract(
        "NMG Edit Direction",
        [
            "clip CLIP",
            "source_sentences STRING",
            "target_sentences STRING",
        ],
        [
            "direction NMG_DIRECTION",
        ],
    ),
    "NMGApplyDirection": Contract(
        "NMG Apply Direction",
        [
            "conditioning CONDITIONING",
            "direction NMG_DIRECTION",
            "strength FLOAT",
        ],
        [
            "conditioning CONDITIONING",
        ],
    ),
    "NMGPrompts": Contract(
        "NMG Prompts",
        [
            "clip CLIP",
            "text STRING",
        ],
        [
            "prompts CONDITIONING",
        ],
    ),
    "NMGAttentionMaps": Contract(
        "NMG Attention Maps",
        [
            "model MODEL",
            "clip? CLIP",
            "trajectory NMG_TRAJECTORY",
            "prompt STRING",
            "words STRING",
            "levels INT",
            "threshold? FLOAT",
            "factor? INT",
            "image? IMAGE",
        ],
        [
            "mask MASK",
            "image IMAGE",
            "words STRING",
        ],
    ),
    "NMGEditRegion": Contract(
        "NMG Edit Region",
        [
            "model MODEL",
            "trajectory NMG_TRAJECTORY",
            "positive CONDITIONING",
            "threshold FLOAT",
            "grow INT",
            "levels? INT",
        ],
        [
            "mask MASK",
        ],
    ),
    "NMGPadToGrid": Contract(
        "Pad To Grid",
        [
            "image IMAGE",
            "multiple INT",
            "mask? MASK",
            "place? COMBO",
            "fill? COMBO",
        ],
        [
            "image IMAGE",
            "mask MASK",
            "padding NMG_PADDING",
        ],
    ),
    "NMGCropPadding": Contract(
        "Crop Padding",
        [
            "image IMAGE",
            "padding NMG_PADDING",
            "mask? MASK",
        ],
        [
            "image IMAGE",
            "mask MASK",
        ],
    ),
    "NMGCompositeOriginal": Contract(
        "Composite Original",
        [
            "original IMAGE",
            "edited IMAGE",
            "mask MASK",
            "grow INT",
            "feather INT",
            "words? MASK",
            "combine? COMBO",
        ],
        [
            "image IMAGE",
            "mask MASK",
        ],
    ),
    "NMGSaveTrajectory": Contract(
        "Save NMG Trajectory",
        [
            "trajectory NMG_TRAJECTORY",
            "filename_prefix STRING",
            "precision? COMBO",
        ],
        [
            "path STRING",
        ],
    ),
    "NMGLoadTrajectory": Contract(
        "Load NMG Trajectory",
        [
            "file COMBO",
        ],
        [
            "trajectory NMG_TRAJECTORY",
        ],
    ),
    "NMGSaveDirection": Contract(
        "Save NMG Direction",
        [
            "direction NMG_DIRECTION",
            "filename_prefix STRING",
        ],
        [
            "path STRING",
        ],
    ),
    "NMGLoadDirection": Contract(
        "Load NMG Direction",
        [
            "file COMBO",
        ],
        [
            "direction NMG_DIRECTION",
        ],
    ),
    "NMGSweep": Contract(
        "NMG Sweep",
        [
            "model MODEL",
            "trajectory NMG_TRAJECTORY",
            "positive CONDITIONING",
            "negative CONDITIONING",
            "vae VAE",
            "text_scale FLOAT",
            "noise_map_scale FLOAT",
            "gradient_scale FLOAT",
            "mode COMBO",
            "rows COMBO",
            "row_values STRING",
            "columns COMBO",
            "column_values STRING",
            "guidance? NMG_GUIDANCE",
            "editor? NMG_EDITOR",
            "mask? MASK",
            "cell_size? INT",
        ],
        [
            "sheet IMAGE",
            "latent LATENT",
        ],
    ),
    "NMGReconstructionCheck": Contract(
        "NMG Reconstruction Check",
        [
            "model MODEL",
            "trajectory NMG_TRAJECTORY",
            "negative CONDITIONING",
            "vae VAE",
            "text_scale FLOAT",
            "noise_map_scale FLOAT",
            "gradient_scale FLOAT",
            "mode COMBO",
            "guidance? NMG_GUIDANCE",
            "image? IMAGE",
        ],
        [
            "image IMAGE",
            "difference IMAGE",
            "psnr FLOAT",
            "ssim FLOAT",
            "curve IMAGE",
            "verdict STRING",
        ],
    ),
    "NMGGradientMemory": Contract(
        "NMG Gradient Memory",
        [
            "model MODEL",
            "plan COMBO",
        ],
        [
            "model MODEL",
        ],
    ),
    "NMGTrajectoryPreview": Contract(
        "NMG Trajectory Preview",
        [
            "trajectory NMG_TRAJECTORY",
            "vae VAE",
            "count INT",
        ],
        [
            "sheet IMAGE",
            "statistics STRING",
            "curve IMAGE",
        ],
    ),
    "NMGDifference": Contract(
        "Image Difference",
        [
            "image_a IMAGE",
            "image_b IMAGE",
            "mask? MASK",
        ],
        [
            "difference IMAGE",
            "psnr FLOAT",
            "ssim FLOAT",
        ],
    ),
    "NMGDemoModel": Contract(
        "NMG Demo Model",
        [],
        [
            "model MODEL",
            "clip CLIP",
            "vae VAE",
        ],
    ),
    "NMGDemoPicture": Contract(
        "NMG Demo Picture",
        [
            "seed INT",
        ],
        [
            "image IMAGE",
            "caption STRING",
        ],
    ),
}
